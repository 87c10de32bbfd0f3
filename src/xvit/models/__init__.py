"""The video transformer, from its parts up to whole models. Each module imports only those above it:

    mixing, temporal, token_merging    the parts: Eq. 9 of the paper, the temporal head, merging of similar tokens
    attention                          the attention schemes, timm's `Attention` over all frames of a clip
    backbone                           a timm model with one of the schemes
    xvit                               `XViT`: backbone, temporal head, classifier; reads like section 3 of the paper
    pretrained, official, profiling    initial weights; the authors' checkpoints; multiply-adds and hashes
    factory                            `create_model`
    streaming                          `Stream`: the same model on endless video, frame by frame
"""
