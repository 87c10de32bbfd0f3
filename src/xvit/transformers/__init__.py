"""XViT in Hugging Face transformers: the same model, files and numbers behind its Auto classes, `Trainer`, `pipeline`
and PEFT. `import xvit.transformers` registers the three classes below; nothing else in xvit needs transformers.

    import transformers
    import xvit.transformers

    classify = transformers.pipeline("video-classification", model="run/best")  # what `xvit train` wrote

A directory that one side writes the other side opens: the tensors in model.safetensors have the same names, and
config.json is xvit's own, from which `XViTConfig` is read and to which it is written.
"""

try:
    import transformers
except ImportError as error:
    raise ImportError(f"xvit.transformers needs transformers ({error}): pip install 'xvit[transformers]'") from error

from xvit.transformers.model import XViTConfig, XViTForVideoClassification
from xvit.transformers.processor import XViTVideoProcessor

__all__ = ["XViTConfig", "XViTForVideoClassification", "XViTVideoProcessor"]

transformers.AutoConfig.register("xvit", XViTConfig)
transformers.AutoModelForVideoClassification.register(XViTConfig, XViTForVideoClassification)
transformers.AutoVideoProcessor.register(XViTConfig, XViTVideoProcessor)
transformers.AutoImageProcessor.register(XViTConfig, image_processor_classes={"torchvision": XViTVideoProcessor})
