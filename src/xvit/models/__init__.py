"""The video transformer, from its parts up to whole models:

    mixing, token_merging    Eq. 9 of the paper; merging of similar tokens
    temporal, load_report    temporal positions, the temporal head, the classifier; what became of initial weights
    attention                the attention schemes, timm's `Attention` over all frames of a clip
    backbone                 a timm model with one of the schemes
    xvit                     `XViT`: backbone, temporal head, classifier; reads like section 3 of the paper
    pretrained, official     initial weights; the authors' checkpoints
    profiling                multiply-adds, the hash of a model
    factory                  `create_model`
    streaming                `Stream`: the same model on endless video, frame by frame

A module imports only modules listed above it.
"""
