"""Video transformers at the price of image transformers: space-time mixing attention on any timm ViT."""

__version__ = "0.1.0"
