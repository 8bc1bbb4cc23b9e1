"""ML-DSA-44 signature verification (FIPS 204), standard library only.

Written from FIPS 204, August 2024: algorithm numbers in comments are its. Only verification is here; a few milliseconds
a signature are fine for a verifier that is meant to be read. All inputs are public, so nothing needs constant time.
"""

import hashlib

PUBLIC_KEY_BYTES = 1312
SIGNATURE_BYTES = 2420

_Q = 8380417
_D = 13
_TAU = 39
_GAMMA1 = 1 << 17
_GAMMA2 = (_Q - 1) // 88
_K, _L = 4, 4
_BETA = 78
_OMEGA = 80
_C_TILDE = 32
_Z_BYTES = 576  # 256 coefficients of 18 bits
_T1_BYTES = 320  # of 10 bits


def _bit_reversed(k):
    return int(f"{k:08b}"[::-1], 2)


_ZETAS = [pow(1753, _bit_reversed(k), _Q) for k in range(256)]


def _ntt(w):
    """Algorithm 41."""
    w = list(w)
    m, length = 0, 128
    while length >= 1:
        for start in range(0, 256, 2 * length):
            m += 1
            zeta = _ZETAS[m]
            for j in range(start, start + length):
                t = zeta * w[j + length] % _Q
                w[j + length] = (w[j] - t) % _Q
                w[j] = (w[j] + t) % _Q
        length //= 2
    return w


def _inverse_ntt(w):
    """Algorithm 42."""
    w = list(w)
    m, length = 256, 1
    while length < 256:
        for start in range(0, 256, 2 * length):
            m -= 1
            zeta = -_ZETAS[m]
            for j in range(start, start + length):
                t = w[j]
                w[j] = (t + w[j + length]) % _Q
                w[j + length] = zeta * (t - w[j + length]) % _Q
        length *= 2
    return [8347681 * c % _Q for c in w]


def _unpack(data, bits):
    """Algorithm 18: coefficients of so many bits, least significant first."""
    value = int.from_bytes(data, "little")
    mask = (1 << bits) - 1
    return [value >> (bits * i) & mask for i in range(256)]


def _pack(coefficients, bits):
    """Algorithm 16."""
    value = 0
    for i, c in enumerate(coefficients):
        value |= c << (bits * i)
    return value.to_bytes(256 * bits // 8, "little")


def _rejection_sampled(seed):
    """Algorithm 30: a polynomial of the matrix A, in NTT form."""
    out, length = [], 1024
    while True:
        stream = hashlib.shake_128(seed).digest(length)
        out.clear()
        for i in range(0, length - 2, 3):
            c = stream[i] | stream[i + 1] << 8 | (stream[i + 2] & 0x7F) << 16
            if c < _Q:
                out.append(c)
                if len(out) == 256:
                    return out
        length *= 2


def _sample_in_ball(seed):
    """Algorithm 29: tau coefficients of plus or minus one."""
    length = 272
    while True:
        stream = hashlib.shake_256(seed).digest(length)
        signs = int.from_bytes(stream[:8], "little")
        c, at = [0] * 256, 8
        for i in range(256 - _TAU, 256):
            while at < length and stream[at] > i:
                at += 1
            if at >= length:
                break
            j = stream[at]
            at += 1
            c[i] = c[j]
            c[j] = -1 if signs >> (i + _TAU - 256) & 1 else 1
        else:
            return c
        length *= 2


def _hints(data):
    """Algorithm 21: for each polynomial the set of places with a hint; None where the encoding is not the only one."""
    hints, index = [], 0
    for i in range(_K):
        end = data[_OMEGA + i]
        if end < index or end > _OMEGA:
            return None
        places = data[index:end]
        if any(a >= b for a, b in zip(places, places[1:])):
            return None
        hints.append(set(places))
        index = end
    if any(data[index:_OMEGA]):
        return None
    return hints


def _use_hint(hint, r):
    """Algorithms 36 and 40."""
    r0 = r % (2 * _GAMMA2)
    if r0 > _GAMMA2:
        r0 -= 2 * _GAMMA2
    if r - r0 == _Q - 1:
        r1, r0 = 0, r0 - 1
    else:
        r1 = (r - r0) // (2 * _GAMMA2)
    if not hint:
        return r1
    return (r1 + 1) % 44 if r0 > 0 else (r1 - 1) % 44


def verify(public_key, message, signature, context=b""):
    """Says whether the signature is one of message under the public key (algorithms 3 and 8)."""
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES or len(context) > 255:
        return False
    rho = public_key[:32]
    c_tilde = signature[:_C_TILDE]
    z = []
    for i in range(_L):
        at = _C_TILDE + _Z_BYTES * i
        z.append([_GAMMA1 - c for c in _unpack(signature[at : at + _Z_BYTES], 18)])
    if any(abs(c) >= _GAMMA1 - _BETA for poly in z for c in poly):
        return False
    hints = _hints(signature[_C_TILDE + _Z_BYTES * _L :])
    if hints is None:
        return False

    tr = hashlib.shake_256(public_key).digest(64)
    mu = hashlib.shake_256(tr + bytes([0, len(context)]) + context + message).digest(64)
    c = _ntt([x % _Q for x in _sample_in_ball(c_tilde)])
    z = [_ntt([x % _Q for x in poly]) for poly in z]
    packed = b""
    for r in range(_K):
        t1 = _unpack(public_key[32 + _T1_BYTES * r : 32 + _T1_BYTES * (r + 1)], 10)
        t1 = _ntt([(x << _D) % _Q for x in t1])
        row = [_rejection_sampled(rho + bytes([s, r])) for s in range(_L)]
        w = _inverse_ntt(
            [(sum(row[s][i] * z[s][i] for s in range(_L)) - c[i] * t1[i]) % _Q for i in range(256)]
        )
        packed += _pack([_use_hint(i in hints[r], x) for i, x in enumerate(w)], 6)
    return hashlib.shake_256(mu + packed).digest(_C_TILDE) == c_tilde
