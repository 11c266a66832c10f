#!/usr/bin/env python3
"""Prints the numbers in math.c: polynomials fitted here, and constants in parts. Needs mpmath.

A fit is by least squares of the relative error in many digits, on points that lie closer towards the ends. The first
coefficient is rounded, those behind it are fitted again to what is left, and so on to the last one."""

import struct

from mpmath import acosh, asin, atan, cos, exp, floor, log, lu_solve, matrix, mp, mpf, pi, sin, sinh, sqrt, tanh

mp.dps = 60


def rounded(x, single):
    return mpf(struct.unpack("f", struct.pack("f", float(x)))[0]) if single else mpf(float(x))


def points(low, high, count):
    middle, half = (low + high) / 2, (high - low) / 2
    return [middle + half * cos(pi * (2 * i + 1) / (2 * count)) for i in range(count)]


def fit(name, function, weight, low, high, terms, single=False):
    """Coefficients of a polynomial near `function`, whose errors count `weight` times."""
    xs = points(mpf(low), mpf(high), 8 * terms)
    done = []
    for k in range(terms):
        left = [function(x) - sum(c * x**i for i, c in enumerate(done)) for x in xs]
        rows = matrix([[weight(x) * x**i for i in range(k, terms)] for x in xs])
        right = matrix([weight(x) * y for x, y in zip(xs, left)])
        done.append(rounded(lu_solve(rows, right)[0], single))
    worst = max(abs(weight(x) * (function(x) - sum(c * x**i for i, c in enumerate(done)))) for x in points(mpf(low), mpf(high), 996))
    form = "{}f" if single else "{}"
    print(f"// {name}: 2^{float(log(worst, 2)):.1f}")
    print("    " + ", ".join(form.format(float(c).hex()) for c in done))


def parts(name, x, bits, count, single=False):
    """`x` as a sum; `bits` is the width of the first part, where it is short of that of the type."""
    out = []
    for i in range(count):
        if i == 0 and bits:
            scale = mpf(2) ** (bits - 1 - int(floor(log(abs(x), 2))))
            part = floor(x * scale) / scale
        else:
            part = rounded(x, single)
        out.append(float(part).hex() + ("f" if single else ""))
        x -= part
    print(f"// {name}: {', '.join(out)}")


def series(x, function, first):
    """What a function of a square is, also at nought."""
    return function(sqrt(x)) if x > 0 else mpf(first)


ln2, half = log(mpf(2)), log(mpf(2)) / 2
fit("EXP, of r", lambda r: (exp(r) - 1 - r) / r**2, lambda r: r**2 / exp(r), -half * 1.001, half * 1.001, 11)
edge = ((sqrt(mpf(2)) - 1) / (sqrt(mpf(2)) + 1)) ** 2
log_of = lambda s: (log((1 + s) / (1 - s)) / s - 2) / s**2
fit("LOG, of s^2", lambda z: log_of(sqrt(z)), lambda z: z / 2, 0, edge * 1.001, 8)
log_rest = lambda z: (log_of(sqrt(z)) / 2 - mpf(1) / 3) / z
fit("LOG_FIFTH, of s^2", log_rest, lambda z: z**2, 0, edge * 1.001, 8)
quarter = (pi / 4 * 1.001) ** 2
sin_of = lambda x: (sin(x) / x - 1) / x**2
cos_of = lambda x: (cos(x) - 1 + x**2 / 2) / x**4
fit("SIN, of x^2", lambda z: sin_of(sqrt(z)), lambda z: z, 0, quarter, 6)
fit("COS, of x^2", lambda z: cos_of(sqrt(z)), lambda z: z**2, 0, quarter, 6)
fit("SINH, of x^2", lambda z: (sinh(sqrt(z)) / sqrt(z) - 1) / z, lambda z: z, 0, 1, 8)
fit("ASIN, of x^2", lambda z: (asin(sqrt(z)) / sqrt(z) - 1) / z, lambda z: z, 0, mpf(1) / 4, 13)
eighth = (sqrt(mpf(2)) - 1) ** 2
fit("ATAN, of x^2", lambda z: (atan(sqrt(z)) / sqrt(z) - 1) / z, lambda z: z, 0, eighth * 1.001, 13)
fit("LOGF, of f", lambda f: (log(1 + f) - f + f**2 / 2) / f**3, lambda f: f**3 / log(1 + f), mpf(-1) / 3, mpf(1) / 3, 8, True)
fit("SINF, of x^2", lambda z: sin_of(sqrt(z)), lambda z: z, 0, quarter, 4, True)
fit("COSF, of x^2", lambda z: cos_of(sqrt(z)), lambda z: z**2, 0, quarter, 3, True)
fit("TANHF, of x^2", lambda z: (tanh(sqrt(z)) / sqrt(z) - 1) / z, lambda z: z, 0, mpf("0.625") ** 2, 5, True)
parts("log2(e)", 1 / ln2, 0, 1)
parts("log2(e) in floats", 1 / ln2, 0, 2, True)
parts("ln 2", ln2, 0, 2)
parts("ln 2, the first part short", ln2, 32, 2)
parts("ln 2 in floats", ln2, 0, 1, True)
parts("a third", mpf(1) / 3, 0, 2)
parts("2/pi", 2 / pi, 0, 1)
parts("2/pi in floats", 2 / pi, 0, 1, True)
parts("pi/2", pi / 2, 0, 3)
parts("pi/2 in floats", pi / 2, 0, 3, True)
mp.prec = 1400
bits = floor(2 / pi * mpf(2) ** (64 * 19))
words = [int(bits) >> 64 * (18 - i) & (1 << 64) - 1 for i in range(19)]
print("// bits of 2/pi")
for i in range(0, 19, 4):
    print("    " + ", ".join(f"0x{w:016x}" for w in words[i : i + 4]) + ",")
