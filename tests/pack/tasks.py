"""What a person has to touch in a shipped workflow for a clip of their own with a real model.

PYTHONPATH=. python tests/pack/tasks.py

prints the table: widgets by task; no task deletes or adds a node or draws a wire, unless it says so. ``test_recipes``
makes these changes and no others, and holds what the workflow then asks for to the official recipe.
"""

from dataclasses import dataclass

CHECKPOINT, PROMPT = ("LTX2AVLoadModel", "checkpoint"), ("LTX2AVGemmaTextEncode", "prompt")
ALWAYS = (CHECKPOINT, PROMPT)


@dataclass(frozen=True)
class Task:
    """A workflow, and the widgets that are touched, by class and name of the input, with what is chosen there."""

    workflow: str
    changes: dict[tuple[str, str], object]
    most: int | None = None  # widgets; None where nobody set a limit

    @property
    def widgets(self) -> int:
        """How many widgets are touched, model and prompt included."""
        return len(ALWAYS) + len(self.changes)


TASKS = {
    "text to video": Task("text_to_video", {}, 3),
    "image to video": Task("image_to_video", {("LoadImage", "image"): "mine.png"}, 4),
    "first and last frame": Task(
        "first_last_frame", {("LoadImage", "image"): "mine.png", ("LoadImage", "image", 2): "end.png"}, 5
    ),
    "own audio": Task("audio_to_video", {("LoadAudio", "audio"): "mine.wav", ("LTX2AVEmptyLatent", "seconds"): 5.0}, 4),
    "two stages, 1080p": Task(
        "two_stage_1080p",
        {("LTX2AVEmptyLatent", "size"): "16:9", ("LTX2AVEmptyLatent", "megapixels"): "0.5"},
        4,
    ),
    "extend a clip": Task(
        "extend", {("LoadVideo", "file"): "ltx2_example_motion.mp4", ("LTX2AVExtend", "seconds"): 3.0}, 4
    ),
    "retake seconds": Task(
        "retake",
        {
            ("LoadVideo", "file"): "ltx2_example_motion.mp4",
            ("LTX2AVRetake", "start"): 0.2,
            ("LTX2AVRetake", "end"): 0.8,
        },
    ),
    "inpaint": Task(
        "inpaint", {("LoadVideo", "file"): "ltx2_example_motion.mp4", ("LoadImageMask", "image"): "mine.png"}
    ),
    "a camera LoRA": Task(
        "lora_camera", {("LTX2AVLoadLora", "lora"): "camera", ("LTX2AVLoadLoraAdvanced", "lora"): "style"}
    ),
    "an 8 GB card": Task("text_to_video", {}),
}


if __name__ == "__main__":
    print("| task | workflow | nodes deleted | nodes added | wires | widgets |\n|---|---|---|---|---|---|")
    for name, task in TASKS.items():
        print(f"| {name} | {task.workflow} | 0 | 0 | 0 | {task.widgets} |")
