"""Randomness as a function of (seed, attempt, step, purpose): there is no generator state to save."""

from __future__ import annotations

import hashlib

import torch


def number(seed: int, attempt: int, step: int, purpose: str) -> int:
    """A 63-bit number; two calls that differ in any argument get unrelated ones."""
    text = f"{seed}/{attempt}/{step}/{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(seed: int, attempt: int, step: int, purpose: str) -> torch.Generator:
    """A fresh generator on the CPU, so that every device draws the same numbers."""
    return torch.Generator().manual_seed(number(seed, attempt, step, purpose))


def everywhere(seed: int, attempt: int, step: int, purpose: str) -> None:
    """Seed torch's global generators (all devices), for methods that draw from them."""
    torch.manual_seed(number(seed, attempt, step, purpose))
