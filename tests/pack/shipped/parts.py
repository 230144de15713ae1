"""What several of the shipped workflows begin with, are given, or end with."""

from typing import Any

from pack.drawing import Graph, Node, Output


def node(kind: str, title: str = "", bypassed: bool = False, **inputs: Any) -> Node:
    """Make a node of ours, or of the host if its name has no menu of ours."""
    return Node(kind, inputs, title, bypassed)


class Usual:
    """What all graphs begin with: a model, Gemma, prompts, contexts, an empty latent."""

    def __init__(self, graph: Graph, prompt: str, **size: Any):
        self.graph = graph
        self.loader = node("LTX2AVLoadModel", checkpoint="miniature (built in)")
        self.gemma = node("LTX2AVLoadGemma", text_encoder="as the model")
        self.model = self.loader["model"]
        self.text = self.encoded(prompt)
        self.contexts = node(
            "LTX2AVThinkingTokens",
            model=self.model, positive=self.text["positive"], negative=self.text["negative"],
        )  # fmt: skip
        self.empty = node("LTX2AVEmptyLatent", model=self.model, **size)

    def encoded(self, prompt: str, title: str = "") -> Node:
        """Another prompt."""
        return node(
            "LTX2AVGemmaTextEncode", title, model=self.model, gemma=self.gemma["gemma"], prompt=prompt, negative=""
        )

    def sampled(self, latent: Output | None = None, model: Output | None = None, title: str = "", **more: Any) -> Node:
        """The sampler, which follows the recipe of the model."""
        given = {"positive": self.contexts["positive"], "negative": self.contexts["negative"], "seed": 7}
        latent = latent or self.empty["av_latent"]
        return node("LTX2AVSample", title, model=model or self.model, latent=latent, **given | more)

    def decoded(self, latent: Output, **more: Any) -> tuple[Node, Node]:
        """Picture and sound as a video, and where it is saved."""
        decode = node("LTX2AVDecode", model=self.model, latent=latent, **more)
        return decode, node("SaveVideo", video=decode["video"], filename_prefix="video/LTX-2")

    def blended(self, latent: Output, **given: Output) -> tuple[Node, ...]:
        """Picture and sound with what was kept of what they were made of, as a video, and where it is saved."""
        decode, save = self.decoded(latent)
        parts = node("GetVideoComponents", video=decode["video"])
        blend = node("LTX2AVBlend", images=parts["images"], audio=parts["audio"], fps=parts["fps"], **given)
        video = node("CreateVideo", images=blend["images"], audio=blend["audio"], fps=parts["fps"])
        save.inputs["video"] = video["VIDEO"]
        return decode, parts, blend, video, save

    def finish(self, *, models: tuple[Node, ...] = (), prompts: tuple[Node, ...] = ()) -> None:
        """Put in what all graphs begin with."""
        self.graph.columns[0].insert(0, ("Model", [self.loader, self.gemma, *models]))
        self.graph.columns[1].insert(0, ("Prompt", [self.text, *prompts, self.contexts]))


EXAMPLE = "ltx2_example_"


def picture(file: str, title: str = "") -> Node:
    """A picture to choose."""
    return node("LoadImage", title, image=f"{EXAMPLE}{file}.png")


def film(file: str = "clip", title: str = "Your video") -> Node:
    """A video to choose."""
    return node("LoadVideo", title, file=f"{EXAMPLE}{file}.mp4")


def sound(title: str = "Your sound") -> Node:
    """A sound to choose."""
    return node("LoadAudio", title, audio=f"{EXAMPLE}sound.flac")


def own_clip(usual: Usual, seen: Node, **more: Any) -> Node:
    """A video as a latent."""
    return node("LTX2AVEncode", model=usual.model, video=seen["VIDEO"], **more)


RED = "a red ball bounces twice on the left"
OPENS = "Press **Run**. The graph opens with the *miniature*, a tiny LTX-2 inside the pack: nothing to download. "
BALLROOM = (
    "The miniature knows one ball of one size, so its upscaler enlarges the **room** instead: that shows the way, not "
    "the gain.\n\n"
)


def second_stage(usual: Usual) -> tuple[Node, Node]:
    """The upscaler, and the model with the distilled LoRA where its recipe asks for it."""
    upscaler = node("LTX2AVLoadUpscaler", upscaler="as the model")
    lora = node(
        "LTX2AVLoadLora", "Only where the second stage needs it",
        model=usual.model, lora="distilled LoRA of the model", strength=1.0,
    )  # fmt: skip
    return upscaler, lora


def refiner(usual: Usual, lora: Node, larger: Node, **more: Any) -> Node:
    """The refiner behind an upscaler."""
    return node(
        "LTX2AVRefine",
        model=lora["model"], positive=usual.contexts["positive"], negative=usual.contexts["negative"],
        latent=larger["av_latent"], seed=7, sound="hold", **more,
    )  # fmt: skip
