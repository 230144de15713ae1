"""The blocks of GGUF's types IQ1 to IQ3, whose codes stand for several numbers at once (see README.md, "GGUF").

A codebook is a list of rows of 8 or 4 numbers, all of a few levels. In llama.cpp rows stand in the order of the numbers
that they are with their levels as digits, the first digit counting least, so a codebook is told by which rows it has.
"""

import base64
import zlib

import torch
from torch import Tensor

from .nibbles import look_up, unpack

_TERNARY, _IQ2, _IQ3_XXS, _IQ3_S = (-1, 0, 1), (8, 25, 43), (4, 12, 20, 28, 36, 44, 52, 62), (1, 3, 5, 7, 9, 11, 13, 15)

# For each row that could be a bit, packed and written in base 85: whether the codebook has it.
_MEMBERS = {
    "IQ1_S": (
        "c-k#eK}(!R7=CxE;dM-9V?RN1diSfb(^(PgE$L;EU0C#DLh=VZ*|bQ>IZZw%yXlwN6ha`hG?#HO$v6$G@ldv(umMk2dT8mb2WdTox*h^v8Vt"
        "nDuD#8?@Vw9Syw7v(LR2?w<}y}3b9YJG^C&5*&qs>Nl?x;NhAB!%0hRecnsm$a2YwJ@;QqccSPG~@n#@N5uBY$^gNY22s7}?HYgoxmY#Y+!A"
        "jh1yxWA4l1OzVO1-XRyWBes^wA;LAoBq<x!%nuPhFWp9`{&R@7DG%<XIwD^Is3Q$Jf@<B<<hd(0^?jzIHG8vQn*?-$Ub(LsHW&@kYNcQ%|}d"
        "P%c;av8KJU^mWiJv*28-WD<$YEG%#}+D!ES;XeDuFD(VlG#i@A4$V;H%7rH52w&LB_pg1xSvl=L<CZ@9?{WdkSxbxSuMq|l64F4MqT|O(RS}"
        "O@H(bLXvHn!_OntvSw2GXTKiD_6XGLxujp0!)qyF+V=7Bv?g3oFy??D1-6?{(2le%HQrc>Le(m#@Cb_P%)g$;r#{<KcsUbe#9?p_<1{H>jE?"
        "+1SCIq;Fwj@yPMjA_U90?}vdY$)D1%>fQq-z{36HBT$I&mG*v%J#A~V%aSj@pZtCEAg}V1eou`2@uUxU_YQ=)6;l3U7EjmAKr#y2F0kdO91c"
        "}@u6ikZ68>90+)KINV7E3oVy0wcNC7Qg*Gnz$6Ckekcj5w;yQl$8BcV}uIeIA*;9XR~L2uzcrHYS+2)y-rqrtcg6e{stpn$cM#il(dTBx(R&"
        "0u-;P1DmAvG}u@dX;b%ns9v~6p49X^c}lqEMlIFjzJBbrp$X4T{{D_p5YV7e^~xM<^E7<_56qcAaL=FI+lT|4v2#Y&dpW2-Egd@Fdf5G@Dhe"
        "eu*|v(bMFD;1sQ1"
    ),
    "IQ2_XXS": (
        "c-nPRORB^$43oj#tB`je2YP^R=KfcCw)5@K5e=lV<VbEmf91ogR%p3E0BR^O#16P=^@J3)+t0mx___f>P^zDolEn6;is&dxI!#Zg_{KuzkVd"
        "4Mw`?l*l~*(z5~c8Qj-!-YZym34v`$TQ4<4*~)dpL;rq|+W4irx`d$&)6^vGb7UkLBrzcFbHqcf>sMFwRxr;MTG;*}m%Qlby-@@TSk)X7om@"
        "@#uKQIjUUWQ&$2&y}*gX5TV=Bc|Cuh1wL(2Kn3A3Yj<N%;gblzhT7_jxp@MF=lA5st5R^Hl2J=^JV`E{Z0D^#$6R7"
    ),
    "IQ2_XS": (
        "c-mc2TdsvL2pkgnkBRPwCicH3cK=&BJX-bM<{ZTW!^|+oxJIi-qkD|rsuaR~iB<*?x~C4>8J0pJW<V>X*vo#SY&(-c)w(<-fCU6QVt|)*=>o"
        "J=N8h~B3mmYKBw*Y)Ca<s*uvOak7T*la5<g=kAh?T96(5+bR(Mt@J=L5^n!u1sF+~=p=RjVCGbM+vDH*59tF!>kC`)-u3GzO}jM8X_r-*1yt"
        "ubG*&a^iqGs?p-do}D8x2NWXU?%O)=7t88q040RdJ=Ak)9T+$YBcFD31^6BC_W+mG1}iEA-T}Oj@u6-pQ1yByIl9%`W3mW#F%j~<yh(N0zSL"
        "~oH^Zy%}}tQx4=M73#xoc?jNErTmD?iDs40;(&MG>YYMNuDE=SK;cc#9vM%q_=>7msuqjC"
    ),
    "IQ2_S": (
        "c-n1JU5W-F3~NE(E9iYHjPDBe{#V(wI=kPpE5rQ7#3X8F%Z9aF@G^(h-0EI3Em0|W3^QwctZ7zp0a8G#rYWS&oF&YfEj@sgh^u5FBBgC>LAk"
        "BEEtarKv-X}c)kMD5E9g)N*35uFS6j&;COQ!QC2=T0oAzp}=fs8f?3xctXeG?g^dQAA!2(KVP=j1x!<Qgx@l7F)Pu!TMd$m>{ZzEray(N$Az"
        "Rb24)#*U9zYZZF^+2!@EVQ9?ARiEH!J<ErE8usn4?()-BQhW*1pE<<S|Z6aT82aQO}QP4+el6zUY~*z7~Sl6pK?p!Q_DMIhH4w7?joIO9P^#"
        "Dw9CRS7mu8OBC|vDii4FoWN_zK9m?6y$}qXC*pyH_2f!)+bXep&HXz~CYasM7Fd3(JhmM~KIbkHJ7yU4;E692~{FNElHOf~Fzm+TBn!W(Jyj"
        "C6"
    ),
    "IQ3_XXS": (
        "c-l=-F%H5o3_M%0RAmZ7_lgPeigaLyA4Q!IuVCbv_?)J2Rn;aw-<^~BWtxCXwzFx0%xW)eST<YW5KL&L;j#hAAHoX-c)&}FY<X@1m|7IGsjr"
        "X>q7@bAuHrcP3L2_`6x)_>^v5;&o?@Fdagv_Uo9H*utGOGEJ93R6P|L2rgx{U}Y-UnrS3sKYtPIbF!WdDS7|dsT<9UQCqzhJe8+4kK5km%Xv"
        "Hjm=J(sMgqk-e3v^zjTJayVggoDWMJzTWE4a0T)3l-9P!ydlNePrBA?Xny*@kmBo4W|8$?wEo20v5Uy_5"
    ),
    "IQ3_S": (
        "c-k#d!AiqG5PdVu!e&pqA>uXNMyUCUt<-~hDT4SrX{pfmmf{D9Rs{Q#&TgE;z`Qr}-rMBob#A|%IbF{W(Id*&Lkwq!%0~0(%@Ao{OU0lD_x2"
        "OXCI^OquXIKLt}o^pYnG?L6&oz+9HeSVPSrN(A}t!YmF^Xmp*3Qy-5G8(e|b5Y-VC?q(AA>+32wuC)HmEXp@c1}PT|h83}iuXSwt^ePGkv?U"
        "+Lf3a_=1ov?9@{igP&9v4ypFswx3&TJZ@M2_=SuX>*z&qp%+CoXl)ge8!drA@5Agyn!FG+()?*sDei}n1QT95(J|p-wR7#Aht{0!Hx!aZfy;"
        "cl!bD4D3uqR(zW`GY5;6>@R{_|3X$jRqNR^eu)^e<Ll^vCYlKPU1;QQ+o$IB(hKom+bHx0SXmXXwyZnVo8~6jd#wQ>"
    ),
}  # fmt: skip


def _codebook(type: str, levels: tuple[int, ...], length: int) -> Tensor:
    """The rows of a codebook, (rows, length) in float32."""
    members = torch.frombuffer(bytearray(zlib.decompress(base64.b85decode(_MEMBERS[type]))), dtype=torch.uint8)
    (codes,) = _bits_of(members.unsqueeze(0), 8, 1).flatten().nonzero(as_tuple=True)
    digits = codes.unsqueeze(1) // torch.tensor([len(levels) ** place for place in range(length)], device="cpu")
    return look_up(digits % len(levels), levels)


def _bits_of(content: Tensor, count: int, step: int) -> Tensor:
    """``count`` pieces of ``step`` bits of each number, the lowest ones first; (n, count * numbers)."""
    shifts = torch.arange(0, count * step, step, dtype=content.dtype, device=content.device)
    return ((content.unsqueeze(2) >> shifts) & ((1 << step) - 1)).flatten(1)


_CODEBOOKS = {
    "IQ1": _codebook("IQ1_S", _TERNARY, 8),
    "IQ2_XXS": _codebook("IQ2_XXS", _IQ2, 8),
    "IQ2_XS": _codebook("IQ2_XS", _IQ2, 8),
    "IQ2_S": _codebook("IQ2_S", _IQ2, 8),
    "IQ3_XXS": _codebook("IQ3_XXS", _IQ3_XXS, 4),
    "IQ3_S": _codebook("IQ3_S", _IQ3_S, 4),
}


def _half(content: Tensor) -> Tensor:
    """The float16 in two bytes, (n, 1)."""
    return content.contiguous().view(torch.float16).float()


def _words(content: Tensor) -> Tensor:
    """Pairs of bytes as whole numbers from 0 to 65535, int32."""
    return content[:, ::2].int() | content[:, 1::2].int() << 8


def _double_words(content: Tensor) -> Tensor:
    """Runs of four bytes as int32, of which the uppermost bit is the sign."""
    return content.contiguous().view(torch.int32)


def _expand(scale: Tensor, numbers: Tensor, signs: Tensor | None = None, offset: Tensor | None = None) -> Tensor:
    """scale * (numbers + offset), with a bit for the sign of each number where there are ``signs``.

    Args:
        scale: (n, groups), one for as many numbers each.
        numbers: (n, codes, 8 or 4).
        signs: (n, bytes), the lowest bit for the first number.
        offset: (n, parts), one for as many numbers each.
    """
    if offset is not None:
        numbers = numbers.flatten(1).unflatten(1, (offset.shape[1], -1)) + offset.unsqueeze(2)
    values = (numbers.flatten(1).unflatten(1, (scale.shape[1], -1)) * scale.unsqueeze(2)).flatten(1)
    return values if signs is None else values * (1 - 2 * _bits_of(signs, 8, 1).float())


def _with_parity(signs: Tensor) -> Tensor:
    """Seven bits and an eighth that makes the number of ones even."""
    parity = signs ^ signs >> 4
    parity = parity ^ parity >> 2
    return signs | ((parity ^ parity >> 1) & 1) << 7


def iq2_xxs(blocks: Tensor) -> Tensor:
    """Return the numbers: a byte for 8 of them, 4 bits of scale for 32."""
    codes, rest = _double_words(blocks[:, 2:]).unflatten(1, (-1, 2)).unbind(2)
    scale = _half(blocks[:, :2]) * (0.5 + (rest >> 28 & 15).float()) * 0.25
    signs = _with_parity(_bits_of(rest, 4, 7))
    return _expand(scale, look_up(codes.contiguous().view(torch.uint8), _CODEBOOKS["IQ2_XXS"]), signs)


def iq2_xs(blocks: Tensor) -> Tensor:
    """Return the numbers: 9 bits for 8 of them, and 4 bits of scale for 16."""
    codes = _words(blocks[:, 2:66])
    scale = _half(blocks[:, :2]) * (0.5 + unpack(blocks[:, 66:]).float()) * 0.25
    return _expand(scale, look_up(codes & 511, _CODEBOOKS["IQ2_XS"]), _with_parity(codes >> 9))


def iq2_s(blocks: Tensor) -> Tensor:
    """Return the numbers: 10 bits for 8 of them, all signs, and 4 bits of scale for 16."""
    codes = blocks[:, 2:34].int() | _bits_of(blocks[:, 66:74], 4, 2).int() << 8
    scale = _half(blocks[:, :2]) * (0.5 + unpack(blocks[:, 74:]).float()) * 0.25
    return _expand(scale, look_up(codes, _CODEBOOKS["IQ2_S"]), blocks[:, 34:66])


def iq3_xxs(blocks: Tensor) -> Tensor:
    """Return the numbers: a byte for 4 of them, and 4 bits of scale for 32."""
    rest = _double_words(blocks[:, 66:])
    scale = _half(blocks[:, :2]) * (0.5 + (rest >> 28 & 15).float()) * 0.5
    return _expand(scale, look_up(blocks[:, 2:66], _CODEBOOKS["IQ3_XXS"]), _with_parity(_bits_of(rest, 4, 7)))


def iq3_s(blocks: Tensor) -> Tensor:
    """Return the numbers: 9 bits for 4 of them, all signs, and 4 bits of scale for 32."""
    codes = blocks[:, 2:66].int() | _bits_of(blocks[:, 66:74], 8, 1).int() << 8
    scale = _half(blocks[:, :2]) * (1 + 2 * unpack(blocks[:, 106:]).float())
    return _expand(scale, look_up(codes, _CODEBOOKS["IQ3_S"]), blocks[:, 74:106])


def iq1_s(blocks: Tensor) -> Tensor:
    """Return the numbers: 11 bits for 8 of them, and 3 bits of scale with the sign of an offset for 32."""
    rest = _words(blocks[:, 34:])
    codes = blocks[:, 2:34].int() | _bits_of(rest, 4, 3) << 8
    scale = _half(blocks[:, :2]) * (2 * (rest >> 12 & 7) + 1).float()
    return _expand(scale, look_up(codes, _CODEBOOKS["IQ1"]), offset=0.125 - 0.25 * (rest >> 15).float())


def iq1_m(blocks: Tensor) -> Tensor:
    """Return the numbers: 11 bits and the sign of an offset for 8 of them, 3 bits of scale for 16; the scale of all is
    in the upper four bits of four words."""
    rest, words = unpack(blocks[:, 32:48]).int(), _words(blocks[:, 48:])
    codes = blocks[:, :32].int() | (rest & 7) << 8
    of_all = ((words >> 12) << torch.arange(0, 16, 4, device=words.device)).sum(1, keepdim=True)
    scale = of_all.to(torch.int16).view(torch.float16).float() * (2 * _bits_of(words, 4, 3) + 1).float()
    return _expand(scale, look_up(codes, _CODEBOOKS["IQ1"]), offset=0.125 - 0.25 * (rest >> 3).float())
