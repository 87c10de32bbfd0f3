"""The video processor, and `pipeline`, `Trainer` and PEFT with the model."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from helpers.color_videos import CLASSES, CLIP, SIZE, make_model, with_metadata, write_videos
from helpers.rate_videos import RATES, STEPS, constant_rate, write_steps
from xvit.checkpoint import preprocessor_config
from xvit.data.annotations import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.decode import decode, probe
from xvit.data.sampling import sample_indices
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.inference.predictor import Predictor
from xvit.models.xvit import XViT
from xvit.utils.errors import VideoError, XViTError

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from xvit.transformers import XViTConfig, XViTForVideoClassification, XViTVideoProcessor  # noqa: E402

# peft reads is_gradient_checkpointing, and users call gradient_checkpointing_enable: transformers 6 removes both.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")

TOKENS, DIM, HEADS = 1 + (SIZE // 8) ** 2, 16, 2
AUTO = transformers.AutoModelForVideoClassification


# Videos


def test_auto_classes_return_the_processor(directory, tmp_path):
    for auto in (transformers.AutoVideoProcessor, transformers.AutoImageProcessor):
        processor = auto.from_pretrained(directory)
        assert type(processor) is XViTVideoProcessor
        assert processor.clip_spec == CLIP
        assert list(processor.image_mean) == list(processor.image_std) == [0.5, 0.5, 0.5]
        assert processor.size["shortest_edge"] == SIZE
    processor.save_pretrained(tmp_path)
    assert transformers.AutoVideoProcessor.from_pretrained(tmp_path).clip_spec == CLIP
    strided = replace(
        CLIP, sampling="strided", stride=2, frame_rate=12.5, interpolation="bicubic", mean=(0.1, 0.2, 0.3)
    )
    assert XViTVideoProcessor(**preprocessor_config(strided)).clip_spec == strided
    assert (
        transformers.AutoImageProcessor.from_pretrained(directory, size={"shortest_edge": 8}).clip_spec.image_size == 8
    )


def test_all_formats_of_frames(directory, video):
    processor = transformers.AutoImageProcessor.from_pretrained(directory)
    array = decode(video, [0, 2, 3, 5]).frames  # (T, H, W, C)
    frames = as_tensor(array)
    expected = normalize(eval_views(frames, CLIP), CLIP)
    formats = {
        "PIL": [Image.fromarray(frame) for frame in array],
        "images": list(array),
        "tensors": list(frames),
        "array": array,
        "channels first": frames.numpy(),
        "tensor": frames,
        "negative strides": array[::-1].copy()[::-1],
    }
    for name, video_frames in formats.items():
        assert torch.equal(processor(video_frames, return_tensors="pt")["pixel_values"], expected), name
        batch = processor([video_frames, video_frames])["pixel_values"]
        assert torch.equal(batch, torch.cat([expected, expected])), name
    assert torch.equal(processor(np.stack([array, array]))["pixel_values"], torch.cat([expected, expected]))
    assert isinstance(processor(array, return_tensors="np")["pixel_values"], np.ndarray)
    # one pixel computed by hand, of an image that is not resized
    plain = np.arange(SIZE * SIZE * 3, dtype=np.uint8).reshape(1, SIZE, SIZE, 3)
    pixels = processor(plain)["pixel_values"]
    assert pixels[0, 0, 1, 2, 3] == pytest.approx((plain[0, 2, 3, 1] / 255 - 0.5) / 0.5, abs=1e-6)


def test_files_are_read_as_by_predictor(model, directory, video):
    processor = transformers.AutoVideoProcessor.from_pretrained(directory)
    indices = sample_indices(CLIP, probe(video).num_frames)
    expected = normalize(eval_views(as_tensor(decode(video, indices).frames), CLIP), CLIP)
    assert torch.equal(processor(video)["pixel_values"], expected)
    assert torch.equal(processor([str(video), video])["pixel_values"], torch.cat([expected, expected]))
    all_frames = as_tensor(decode(video, range(6)).frames)
    assert torch.equal(processor(all_frames, do_sample_frames=True)["pixel_values"], expected)
    assert processor(video, num_frames=3)["pixel_values"].shape == (1, 3, 3, SIZE, SIZE)
    scores = Predictor(model).predict_probabilities(eval_views(as_tensor(decode(video, indices).frames), CLIP)[None])
    logits = AUTO.from_pretrained(directory)(processor(video)["pixel_values"]).logits
    torch.testing.assert_close(logits.softmax(-1), scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("videos", "text"),
    [
        (np.zeros((4, 8, 8), np.uint8), r"\(4, 8, 8\): expected"),
        (np.zeros((4, 8, 8, 2), np.uint8), r"\(4, 8, 8, 2\): expected"),
        (np.zeros((4, 8, 8, 3), np.float32), "expected torch.uint8"),
        ([np.zeros((4, 8, 8, 3), np.uint8), np.zeros((3, 8, 8, 3), np.uint8)], r"clips of \[4, 3\] frames"),
        ([], "expected"),
    ],
)
def test_processor_raises(directory, videos, text):
    with pytest.raises(XViTError, match=text):
        transformers.AutoVideoProcessor.from_pretrained(directory)(videos)


def test_files_are_sampled_by_time(tmp_path, caplog):
    """The clip of the same motion is the same at each rate of the file; without a stored rate, frames are counted."""
    spec = replace(CLIP, sampling="strided", stride=2, frame_rate=float(STEPS))
    values = preprocessor_config(spec)
    processor = XViTVideoProcessor(**values)
    counting = XViTVideoProcessor(**{name: value for name, value in values.items() if name != "frame_rate"})
    assert (processor.clip_spec, counting.clip_spec) == (spec, replace(spec, frame_rate=None))
    clips, counted = {}, {}
    for rate in ("8", "25", "50", "varying"):
        path = str(write_steps(tmp_path / f"{rate}.mp4", RATES[rate]))
        clips[rate], counted[rate] = processor(path)["pixel_values"], counting(path)["pixel_values"]
        expected = VideoDataset(samples=[Sample(path=path, label=None, id=path)], clip_spec=spec)[0].pixels
        assert torch.equal(clips[rate], normalize(expected, spec))
        assert torch.equal(clips[rate], clips["8"])
    assert torch.equal(counted["8"], clips["8"])
    assert not torch.equal(counted["25"], clips["8"])
    assert not caplog.records
    processor(write_steps(tmp_path / "slow.mp4", constant_rate(2, 4)))
    assert "slow.mp4: " in caplog.text
    assert "frames are repeated" in caplog.text


def test_unreadable_file(directory, tmp_path):
    (tmp_path / "no.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoError, match=r"no\.mp4"):
        transformers.AutoVideoProcessor.from_pretrained(directory)(tmp_path / "no.mp4")


def test_pipeline_matches_predictor(model, directory, video):
    classify = transformers.pipeline("video-classification", model=str(directory), device="cpu")
    frames = as_tensor(decode(video, sample_indices(CLIP, 6)).frames)
    scores = model(normalize(eval_views(frames, CLIP), CLIP)).softmax(-1)[0]
    outputs = classify(str(video))
    assert {p["label"]: p["score"] for p in outputs} == pytest.approx(
        dict(zip(CLASSES, scores.tolist(), strict=True)), abs=1e-5
    )
    prediction = Predictor(directory)(video)
    assert tuple(p["label"] for p in outputs) == prediction.labels
    assert [p["score"] for p in outputs] == pytest.approx(prediction.scores, abs=1e-5)
    assert all(a["score"] >= b["score"] for a, b in pairwise(outputs))
    assert len(classify([str(video), str(video)], top_k=1)) == 2


# Training


def training(path, **options):
    return transformers.TrainingArguments(
        output_dir=str(path),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=6,
        learning_rate=5e-3,
        logging_steps=1,
        dataloader_pin_memory=False,
        **options,
    )


def test_trainer(directory, tmp_path, capsys):
    config = XViTConfig.from_pretrained(directory)
    config.provenance = {}
    root = write_videos(tmp_path / "videos", train=4, val=2)
    processor = transformers.AutoImageProcessor.from_pretrained(directory)
    datasets = {
        split: [
            {"pixel_values": processor(path)["pixel_values"][0], "labels": number}
            for number, name in enumerate(CLASSES)
            for path in sorted((root / split / name).iterdir())
        ]
        for split in ("train", "val")
    }
    trainer = transformers.Trainer(
        model_init=lambda: XViTForVideoClassification(config),
        args=training(
            tmp_path / "run",
            num_train_epochs=8,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
        ),
        train_dataset=datasets["train"],
        eval_dataset=datasets["val"],
        processing_class=processor,
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert min(losses) < 0.7 * losses[0]
    result = trainer.evaluate()
    assert result["eval_loss"] == pytest.approx(min(losses), abs=1e-6)
    assert result["eval_accuracy"] == 1.0
    trainer.save_model()
    for directory in (tmp_path / "run", trainer.state.best_model_checkpoint):
        opened = XViT.from_pretrained(directory)
        logits = torch.cat([opened(item["pixel_values"][None]) for item in datasets["val"]])
        loss = F.cross_entropy(logits, torch.tensor([item["labels"] for item in datasets["val"]]))
        assert loss.item() == pytest.approx(min(losses), abs=1e-5)
        outputs = transformers.pipeline("video-classification", model=str(directory), device="cpu")(
            str(root / "val" / "red" / "0.mp4"), top_k=1
        )
        assert outputs[0]["label"] == Predictor(directory)(root / "val" / "red" / "0.mp4").labels[0] == "red"


@pytest.mark.parametrize("backbone", ["eva02_tiny_patch14_224", "vit_small_patch16_dinov3"])
def test_lora_adapts_projections_of_eva_models(backbone, clips, tmp_path):
    with_metadata(make_model(backbone=backbone), list(CLASSES)).save_pretrained(tmp_path / "m")
    adapted = peft.get_peft_model(
        AUTO.from_pretrained(tmp_path / "m"), peft.LoraConfig(r=2, target_modules=["attn.qkv"])
    )
    adapted(pixel_values=clips, labels=torch.tensor([0, 1])).loss.backward()
    gradients = [p.grad for name, p in adapted.named_parameters() if "backbone" in name and "lora_B" in name]
    assert len(gradients) == 2
    assert all(gradient is not None and gradient.any() for gradient in gradients)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_lora(directory, clips, tmp_path, checkpointing):
    torch.manual_seed(6)
    model = AUTO.from_pretrained(directory)
    if checkpointing:
        model.activation_checkpointing_enable()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = model(clips).logits.detach()
    config = peft.LoraConfig(r=2, target_modules=["attn.qkv"], modules_to_save=["classifier"])
    adapted = peft.get_peft_model(model, config)
    assert torch.equal(adapted(pixel_values=clips).logits, first)  # LoRA starts without effect
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * (2 + 1) + 2  # A and B of the backbone's two blocks and the temporal head's; fc
    assert all("attn.qkv.lora_" in name or "classifier.modules_to_save" in name for name in trained)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(4):
        loss = adapted.train()(pixel_values=clips, labels=torch.tensor([0, 1])).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    adapted.eval().save_pretrained(tmp_path / "adapter")
    base = AUTO.from_pretrained(directory)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    again = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    expected = adapted(pixel_values=clips).logits
    assert not torch.allclose(expected, first)
    assert torch.equal(again(pixel_values=clips).logits, expected)
    merged = again.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")  # a checkpoint without adapters
    torch.testing.assert_close(XViT.from_pretrained(tmp_path / "merged")(clips), expected, rtol=0, atol=1e-5)
