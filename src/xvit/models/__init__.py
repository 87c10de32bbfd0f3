"""The video transformer, from its parts up to whole models. A module imports only modules above it:

mixing, token_merging, temporal    the parts: Eq. 9 of the paper; merging of similar tokens; temporal positions, the
                                   temporal head, the classifier
attention                          the attention schemes, timm's `Attention` over all frames of a clip
backbone                           a timm model with one of the schemes
xvit                               `XViT`: backbone, temporal head, classifier; reads like section 3 of the paper
pretrained, official, profiling    initial weights (and `load_report`); the authors' checkpoints; MACs and hashes
factory                            `create_model`
streaming                          `Stream`: the same model on endless video, frame by frame
"""
