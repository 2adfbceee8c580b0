"""What the official backbone computes on weights made by a fixed rule: the check of a conversion.

The values are facts about the official code (AAboys/MobileFormer), which ran in float64; none of
its code is here. Each tensor's random numbers follow from its official key and a seed, so that the
same model is filled anywhere, whatever its own names are.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .backbone import MobileFormerClassifier
from .checkpoint import convert_official_state_dict, official_shapes

#: Size of the golden image.
SHAPE = (2, 3, 224, 224)
#: Largest error in float64, in units of a tensor's standard deviation.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Summary:
    """A tensor: its standard deviation, and values at flat positions."""

    std: float
    at: dict[int, float]


@dataclass(frozen=True)
class Golden:
    """What one model gives: features and tokens after the last block, and the logits."""

    arch: str
    dynamic_relu: str
    features: Summary
    tokens: Summary
    logits: Summary


GOLDEN = [
    Golden(
        "26m",
        "first-token",
        features=Summary(1.942410653772015, {0: 1.5118501514552323, 7919: 3.021836096099375}),
        tokens=Summary(0.9616421166859425, {0: 1.0724016452164968, 239: -1.6154602270752316}),
        logits=Summary(0.7554373821529096, {0: -0.7441315187044444, 1919: -0.5571825833217978, 1838: 0.6401571923095724}),
    ),
    Golden(
        "26m",
        "spatial-aware",
        features=Summary(1.955981450895859, {0: 1.6210177366188894, 7919: 2.9098825959795853}),
        tokens=Summary(0.9669638529791449, {0: 1.015016078472791, 239: -1.6416192139983359}),
        logits=Summary(0.7639405871709175, {0: -0.5907278181749083, 1919: -0.647103227459106, 1838: 0.6637562449373293}),
    ),
    Golden(
        "52m",
        "first-token",
        features=Summary(1.8108327408175924, {0: -0.35728561218585697, 7919: 0.15192468384211816}),
        tokens=Summary(1.037164044495579, {0: 0.594851381794636, 239: -0.5893822511433885}),
        logits=Summary(0.6648150684822598, {0: -0.30334259245760364, 1919: 0.768669425097143, 1838: -1.3452404691538202}),
    ),
    Golden(
        "52m",
        "spatial-aware",
        features=Summary(1.7954765829436845, {0: -0.33876074716508753, 7919: 0.22206596308214027}),
        tokens=Summary(1.0351032831825113, {0: 0.5873971787890835, 239: -0.5892675318953432}),
        logits=Summary(0.6604330852542879, {0: -0.28945037369109544, 1919: 0.7713796740040788, 1838: -1.397803699266435}),
    ),
    Golden(
        "96m",
        "first-token",
        features=Summary(1.8613995945292943, {0: 1.3784321553714713, 7919: 2.6582042064887843}),
        tokens=Summary(1.0909711080081308, {0: 0.5651887352572292, 751: -1.33838987015879}),
        logits=Summary(0.7066366754065174, {0: -0.9440751370667327, 1919: 0.27515451901943894, 1838: -0.47359071486105686}),
    ),
    Golden(
        "96m",
        "spatial-aware",
        features=Summary(1.8693344733085873, {0: 1.3889823651895705, 7919: 2.6061200945687455}),
        tokens=Summary(1.0896913771083199, {0: 0.5531409885168078, 751: -1.3900155844625615}),
        logits=Summary(0.7062983408848684, {0: -1.0199747072213312, 1919: 0.3071248088267622, 1838: -0.5390767759115668}),
    ),
    Golden(
        "151m",
        "first-token",
        features=Summary(2.1311067075237218, {0: -0.3768711590960813, 7919: -0.16327288964861675}),
        tokens=Summary(0.9840538467059059, {0: -0.20431896456078696, 1007: 1.5879256489749343}),
        logits=Summary(0.9023317589162044, {0: 0.367397646983631, 1919: 1.353946890068106, 1838: -0.6883544821830159}),
    ),
    Golden(
        "151m",
        "spatial-aware",
        features=Summary(2.074581495055678, {0: -0.005225701458905996, 7919: -0.6829502501424584}),
        tokens=Summary(0.9812286665353095, {0: -0.34648967257636637, 1007: 1.3352286516441902}),
        logits=Summary(0.889177393058398, {0: 0.2182041934939234, 1919: 1.2097882259298256, 1838: -0.8572688962465662}),
    ),
    Golden(
        "214m",
        "first-token",
        features=Summary(2.2027958448299754, {0: -1.2412523306068577, 7919: 0.8437722126636275}),
        tokens=Summary(0.9829940006894605, {0: -0.51468099142775, 1007: 0.5571178583787427}),
        logits=Summary(0.8804933146651887, {0: 0.7470362961464387, 1919: -1.2106071213262322, 1838: -0.3773067088140286}),
    ),
    Golden(
        "214m",
        "spatial-aware",
        features=Summary(2.1397972338089764, {0: -1.1133530597420553, 7919: 1.1417874980797502}),
        tokens=Summary(0.9832116557786298, {0: -0.3203036663312231, 1007: 0.2421305331002932}),
        logits=Summary(0.8740061807502941, {0: 0.8147173557064089, 1919: -1.1120850235789852, 1838: -0.3267105686914955}),
    ),
    Golden(
        "294m",
        "first-token",
        features=Summary(2.5845537713644284, {0: -0.3511273665281438, 7919: 2.9959516152525274}),
        tokens=Summary(1.0025088256510388, {0: 1.4731659714410839, 1007: -0.8491773560712144}),
        logits=Summary(1.0975068182208394, {0: 0.7346164651460665, 1919: 2.2615562476031683, 1838: -0.3214931870263567}),
    ),
    Golden(
        "294m",
        "spatial-aware",
        features=Summary(2.597273203865934, {0: -0.7531721073459836, 7919: 3.5268781448649227}),
        tokens=Summary(0.9955620929623934, {0: 1.6030631416394872, 1007: -0.6889902432287476}),
        logits=Summary(1.0878192337859647, {0: 0.6624171159938623, 1919: 2.055776618874134, 1838: -0.44732250754280084}),
    ),
    Golden(
        "508m",
        "first-token",
        features=Summary(2.429506087291222, {0: 3.731918876632795, 7919: -0.5884755449527488}),
        tokens=Summary(0.9749292544818787, {0: 1.3486919045921992, 1007: -0.21684498946251682}),
        logits=Summary(0.9222277454774991, {0: 0.1098274829409917, 1919: 0.7690304238458523, 1838: 0.3709946943718021}),
    ),
    Golden(
        "508m",
        "spatial-aware",
        features=Summary(2.4141030192562183, {0: 3.490533556404042, 7919: -0.8118080276939968}),
        tokens=Summary(0.9760042755077488, {0: 1.314907187900528, 1007: -0.5301541654899105}),
        logits=Summary(0.9162096602606674, {0: -0.08984094746405202, 1919: 0.7047360097705013, 1838: 0.40277043612879926}),
    ),
]


def _generator(seed: int, key: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{key}".encode())))


def fill(key: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """The golden value of one official key."""
    rng = _generator(seed, key)
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    if key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
        value = rng.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean") or len(shape) == 1:
        value = 0.1 * rng.standard_normal(shape)
    elif key == "tokens.weight":
        value = rng.standard_normal(shape)
    else:
        gain = 0.7 if len(shape) == 4 else 1.0
        value = rng.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(value).astype(np.float32))


def image(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    """The golden image, already normalised."""
    return torch.from_numpy(_generator(seed, "image").standard_normal(shape).astype(np.float32))


def official_state_dict(arch: str, seed: int = 0) -> dict[str, Tensor]:
    """A filled official checkpoint of an arch."""
    return {key: fill(key, shape, seed) for key, shape in official_shapes(arch).items()}


def check_conversion(arch: str) -> float:
    """Convert golden weights of an arch, run the model, and compare with the official numbers.

    Both forms of the dynamic ReLU are run, in float64.

    Returns:
        The largest error, in units of each tensor's standard deviation.

    Raises:
        ValueError: If an error exceeds :data:`TOLERANCE`: this installation computes something
            else than the official code.
    """
    weights = convert_official_state_dict(official_state_dict(arch), arch)
    worst = 0.0
    for golden in (golden for golden in GOLDEN if golden.arch == arch):
        model = MobileFormerClassifier(arch, dynamic_relu=golden.dynamic_relu)
        model.load_state_dict(weights)
        model = model.double().eval()
        with torch.no_grad():
            (features,), tokens = model.backbone.forward_tokens(image().double())
            logits = model.head(features, tokens)
        for found, expected in (
            (features, golden.features), (tokens, golden.tokens), (logits, golden.logits)
        ):
            worst = max(worst, _error(found, expected))
    if not worst <= TOLERANCE:
        raise ValueError(
            f"Mobile-Former-{arch} computes other numbers here than the official code (error "
            f"{worst:.1e} of a standard deviation on golden weights): nothing is converted; please "
            "report this with the versions of your packages"
        )
    return worst


def _error(found: Tensor, expected: Summary) -> float:
    flat = found.flatten()
    errors = [abs(flat[index].item() - value) for index, value in expected.at.items()]
    return max(*errors, abs(flat.std(correction=0).item() - expected.std)) / expected.std
