"""Settings as one text, in the form that sharing sites know from Stable Diffusion web UI ("parameters")."""

from .request import CompleteRequest


def parameters_text(request: CompleteRequest, model: str) -> str:
    """Return prompt, negative prompt and a line of ``Name: value`` of what was really used.

    Args:
        request: with nothing left open.
        model: the name of the model.
    """
    clip, settings = request.made, request.request.sampling
    values = {
        "Steps": len(request.sigmas) - 1,
        "Sampler": request.sampler,
        "CFG scale": f"{request.guidance.video.rows[0].text_scale:g}",
        "Seed": settings.seed,
        "Size": f"{clip.width}x{clip.height}",
        "Model": model,
        "Frames": (clip.frames + 1) // 2 if request.request.high_quality else clip.frames,
        "FPS": f"{float(clip.fps):g}",
    }
    prompts = [" ".join(segment.prompt.split()) for segment in request.script]
    negative = " ".join(request.negative.split())
    line = ", ".join(f"{name}: {value}" for name, value in values.items())
    return "\n".join([*prompts, *([f"Negative prompt: {negative}"] if negative else []), line])
