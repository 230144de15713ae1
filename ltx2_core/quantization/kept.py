"""Matrices of a transformer that a cast leaves as they are stored (see README.md, "Casting")."""

# How their names begin, and why; ``{last}`` is the number of the last block.
KEPT = {
    r"(?!blocks\.)": "the ends of both streams, AdaLN and captions: few bytes, on which every token of a step depends",
    r"blocks\.(0|{last})\.": "the first and the last block: what they get wrong all others inherit, or none can mend",
    r"blocks\.\d+\.audio\.": "the sound: it turns metallic or choppy long before a picture turns soft",
    r"blocks\.\d+\.(audio_to_video|video_to_audio)\.": "where picture and sound meet: lips and impacts stay on time",
    r"blocks\.\d+\.video\.\w+\.gate\.": "one number per head: nothing to save",
}
