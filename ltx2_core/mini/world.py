"""A one-ball world: every caption has pictures, a sound, and the moments at which both must agree.

A ball of one colour bounces a stated number of times at the left, middle or right of a plain room.  Each impact
starts a short decaying tone: its pitch follows the colour, its stereo position follows the ball.  *When* the ball
hits the floor is never said in the caption, so a model that draws picture and sound separately can get each of
them right and still be out of step; only listening and looking across tells it the time.

    scene = sample_scene(np.random.default_rng(7))
    video = render_video(scene)           # (33, 96, 96, 3) float32 in 0..1, 24 frames per second
    audio = render_audio(scene, 24000)    # (2, 33000) float32 in -1..1
    text  = caption(scene, rng)           # "a red ball bounces twice on the left"

NumPy only; everything follows from the generator handed in.
"""

from dataclasses import dataclass

import numpy as np

SIZE = 96  # pixels, width and height
FRAMES = 33  # 8k + 1, as the video autoencoder wants it
FPS = 24.0
DURATION = FRAMES / FPS  # seconds
RADIUS = 9.0  # pixels
FLOOR = 81.0  # pixel row at which the floor begins
REST = FLOOR - RADIUS  # row of the ball's centre while it touches the floor

COLOURS = {
    "red": (0.86, 0.16, 0.16),
    "green": (0.16, 0.70, 0.24),
    "blue": (0.20, 0.32, 0.92),
    "yellow": (0.94, 0.82, 0.16),
    "white": (0.97, 0.97, 0.97),
}
# Hertz.  Multiples of 100 Hz complete whole periods within a 10 ms mel frame, so a vocoder need not track phase.
PITCHES = {"blue": 400.0, "green": 600.0, "red": 800.0, "yellow": 1100.0, "white": 1500.0}
PLACES = {"left": 17.0, "middle": 48.0, "right": 79.0}  # pixel column of the ball's centre
ROOMS = {  # (wall, floor), RGB
    "dark": ((0.13, 0.14, 0.18), (0.26, 0.25, 0.27)),
    "light": ((0.62, 0.67, 0.74), (0.46, 0.44, 0.43)),
}
DECAY = 0.07  # seconds until a tone has fallen to 1/e
ATTACK = 0.003  # seconds of linear rise
LOUDNESS = 0.6

COUNT_WORDS = {1: ("once", "one time", "a single time"), 2: ("twice", "two times"), 3: ("three times", "thrice")}
PLACE_WORDS = {"left": ("left",), "middle": ("middle", "centre", "center"), "right": ("right",)}
TEMPLATES = (
    "a {colour} ball bounces {count} on the {place}",
    "a {colour} ball bounces {count} in the {place}",
    "a {colour} ball bouncing {count} on the {place}",
    "{colour} ball bounces {count}, {place}",
    "on the {place}, a {colour} ball bounces {count}",
    "the {colour} ball on the {place} bounces {count}",
    "a {colour} ball hits the floor {count} on the {place} side",
    "a video of a {colour} ball that bounces {count} on the {place} with sound",
)
ROOM_PHRASES = (", {room} background", " in a {room} room", " in front of a {room} wall")


@dataclass(frozen=True)
class Scene:
    """What happens in a clip: a ball of a colour hits the floor of a room at one place, once or several times."""

    colour: str
    place: str
    room: str
    impacts: tuple[float, ...]  # seconds
    period: float  # seconds from one impact to the next
    x: float  # pixel column of the ball's centre

    @property
    def count(self) -> int:
        """How often the ball hits the floor."""
        return len(self.impacts)


def _first_impact_and_period(count: int, rng: np.random.Generator) -> tuple[float, float]:
    """Draw the rhythm so that exactly `count` impacts fall well inside the clip."""
    first = rng.uniform(*{1: (0.20, 1.20), 2: (0.15, 0.60), 3: (0.12, 0.40)}[count])
    # The one after the last must come after the end; the last must leave time to hear it; the ball starts in the air.
    shortest = max((DURATION + 0.05 - first) / count, first)
    longest = {1: max(shortest, 1.3), 2: 0.75, 3: 0.50}[count]
    if count > 1:
        longest = min(longest, (DURATION - 0.15 - first) / (count - 1))
    return first, rng.uniform(shortest, max(shortest, longest))


def sample_scene(
    rng, colour: str | None = None, place: str | None = None, count: int | None = None, room: str | None = None
) -> Scene:
    """Draw a scene; what is given is taken as it is."""
    colour = colour or str(rng.choice(list(COLOURS)))
    place = place or str(rng.choice(list(PLACES)))
    room = room or str(rng.choice(list(ROOMS)))
    count = count or int(rng.integers(1, 4))
    first, period = _first_impact_and_period(count, rng)
    impacts = tuple(first + i * period for i in range(count))
    return Scene(colour, place, room, impacts, period, PLACES[place] + rng.uniform(-2, 2))


def caption(scene: Scene, rng, mention_room: bool | None = None) -> str:
    """Draw one of several ways to say what can be known before the clip is seen."""
    text = str(rng.choice(TEMPLATES)).format(
        colour=scene.colour,
        count=rng.choice(COUNT_WORDS[scene.count]),
        place=rng.choice(PLACE_WORDS[scene.place]),
    )
    if rng.random() < 0.5 if mention_room is None else mention_room:
        text += str(rng.choice(ROOM_PHRASES)).format(room=scene.room)
    return text


def height_of_ball(scene: Scene, seconds: np.ndarray) -> np.ndarray:
    """Pixels between ball and floor: the same parabola over and over, zero at each impact."""
    phase = np.mod((seconds - scene.impacts[0]) / scene.period, 1.0)
    return (18.0 + 30.0 * scene.period) * 4.0 * phase * (1.0 - phase)


def render_video(
    scene: Scene, frames: int = FRAMES, height: int = SIZE, width: int = SIZE, left: int = 0
) -> np.ndarray:
    """Pictures (frames, height, width, 3), float32 in 0..1; frame k shows the time k / FPS.

    In a larger room the same ball bounces on its floor, ``left`` pixels further to the right; in a longer clip, on and
    on.
    """
    wall, floor = (np.asarray(c, np.float32) for c in ROOMS[scene.room])
    room = np.where(np.arange(height)[:, None, None] < FLOOR + height - SIZE, wall, floor)
    coverage = ball_coverage(scene, frames, height, width, left)[..., None]
    return (1 - coverage) * room + coverage * np.asarray(COLOURS[scene.colour], np.float32)


def ball_coverage(
    scene: Scene, frames: int = FRAMES, height: int = SIZE, width: int = SIZE, left: int = 0
) -> np.ndarray:
    """Return how much of each pixel the ball covers, (frames, height, width) in 0..1 with a one-pixel soft edge."""
    rows, columns = (np.arange(side, dtype=np.float32) + 0.5 for side in (height, width))
    centre = (REST + height - SIZE - height_of_ball(scene, np.arange(frames) / FPS)).astype(np.float32)
    down, across = (rows - centre[:, None]) ** 2, (columns - np.float32(scene.x + left)) ** 2
    return np.clip(RADIUS + 0.5 - np.sqrt(down[:, :, None] + across), 0, 1)


def render_audio(scene: Scene, rate: int) -> np.ndarray:
    """Stereo sound (2, samples), float32, as long as the pictures."""
    seconds = np.arange(round(DURATION * rate)) / rate
    envelope = np.zeros_like(seconds)
    for impact in scene.impacts:
        since = seconds - impact
        envelope += np.where(since >= 0, np.clip(since / ATTACK, 0, 1) * np.exp(-np.maximum(since, 0) / DECAY), 0)
    turn = 2 * np.pi * PITCHES[scene.colour] * seconds
    tone = LOUDNESS * envelope * (np.sin(turn) + 0.3 * np.sin(2 * turn)) / 1.3
    pan = np.pi / 2 * (0.1 + 0.8 * scene.x / SIZE)  # equal power
    return np.stack([np.cos(pan) * tone, np.sin(pan) * tone]).astype(np.float32)
