"""Train an XViT with transformers' Trainer, then predict with its pipeline.

    python examples/finetune_with_trainer.py --videos videos --output run

The videos are in VIDEOS/train/<class>/ and VIDEOS/val/<class>/. If VIDEOS does not exist, synthetic videos of moving
shapes are written there. The model is the small one of recipes/motion.yaml; it trains in about two minutes on two CPU
cores. To start from a trained model instead:

    XViTForVideoClassification.from_pretrained(DIR, num_labels=5, id2label=..., ignore_mismatched_sizes=True)
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from xvit.data.synthetic.dataset import write_motion_dataset
from xvit.transformers import XViTConfig, XViTForVideoClassification, XViTVideoProcessor


def read_clips(root: Path, class_names: list[str], processor: XViTVideoProcessor) -> list[dict[str, Any]]:
    """The clips of root/<class>/*.mp4, all decoded into memory."""
    return [
        {"pixel_values": processor(path)["pixel_values"][0], "labels": index}
        for index, name in enumerate(class_names)
        for path in sorted((root / name).glob("*.mp4"))
    ]


def accuracy(prediction: transformers.EvalPrediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=Path("videos"), help="created with synthetic videos if missing")
    parser.add_argument("--output", type=Path, default=Path("run"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    args = parser.parse_args()
    if not args.videos.exists():
        write_motion_dataset(args.videos, clips_per_class=170)
    class_names = sorted(folder.name for folder in (args.videos / "train").iterdir())

    torch.manual_seed(0)
    config = XViTConfig(
        backbone="vit_tiny_patch16_224",
        num_frames=8,
        spatial_position="sincos",
        backbone_kwargs={"img_size": 48, "patch_size": 24, "embed_dim": 96, "depth": 4, "num_heads": 4}
        | {"weight_init": "jax"},
        clip_spec={"interpolation": "bilinear", "mean": [0.3] * 3, "std": [0.25] * 3},
        class_names=class_names,
    )
    model = XViTForVideoClassification(config)
    config.save_pretrained(args.output)
    processor = transformers.AutoVideoProcessor.from_pretrained(args.output)

    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(args.output),
            num_train_epochs=args.epochs,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            learning_rate=args.lr,
            weight_decay=0.05,
            warmup_steps=30,
            lr_scheduler_type="cosine",
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            report_to="none",
        ),
        train_dataset=read_clips(args.videos / "train", class_names, processor),
        eval_dataset=read_clips(args.videos / "val", class_names, processor),
        compute_metrics=accuracy,
        processing_class=processor,
    )
    trainer.train()
    print(f"accuracy {trainer.evaluate()['eval_accuracy']:.1%}, chance {1 / len(class_names):.1%}")
    trainer.save_model()  # the best model: config.json, model.safetensors, preprocessor_config.json

    classify = transformers.pipeline("video-classification", model=str(args.output))
    for name in class_names:
        path = min((args.videos / "val" / name).iterdir())
        outputs = classify(str(path), top_k=3)
        print(f"{name:>24}: " + ", ".join(f"{output['label']} {output['score']:.1%}" for output in outputs))


if __name__ == "__main__":
    main()
