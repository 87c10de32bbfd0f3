"""XViT in Hugging Face transformers: the same model and files with its Auto classes, `Trainer`, `pipeline` and PEFT.

`import xvit.transformers` registers the three classes below. Nothing else in xvit needs transformers.

    import transformers
    import xvit.transformers

    classify = transformers.pipeline("video-classification", model="run/best")  # a directory written by `xvit train`

xvit and transformers open each other's directories: the tensors in model.safetensors have the same names, and
`XViTConfig` reads and writes xvit's own config.json.
"""

try:
    import transformers
except ImportError as error:
    raise ImportError(f"xvit.transformers needs transformers ({error}): pip install 'xvit[transformers]'") from error

from xvit.transformers.model import XViTConfig, XViTForVideoClassification
from xvit.transformers.processor import XViTVideoProcessor

transformers.AutoConfig.register("xvit", XViTConfig)
transformers.AutoModelForVideoClassification.register(XViTConfig, XViTForVideoClassification)
transformers.AutoVideoProcessor.register(XViTConfig, XViTVideoProcessor)
transformers.AutoImageProcessor.register(XViTConfig, image_processor_classes={"torchvision": XViTVideoProcessor})

__all__ = ["XViTConfig", "XViTForVideoClassification", "XViTVideoProcessor"]
