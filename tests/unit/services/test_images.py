"""Image references: normal forms, malformed ones, and the trust policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.services.images import parse_image, refusal

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("reference", "normal"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("acme/resize", "docker.io/acme/resize:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/acme/a.b_c__d-e:V_1", "docker.io/acme/a.b_c__d-e:V_1"),
        ("ghcr.io/acme/resize:2", "ghcr.io/acme/resize:2"),
        (f"ghcr.io/acme/resize@{DIGEST}", f"ghcr.io/acme/resize@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}"),
        ("localhost/app", "localhost/app:latest"),
        ("127.0.0.1:5000/team/app:x", "127.0.0.1:5000/team/app:x"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("registry.example.com:443/a/b/c", "registry.example.com:443/a/b/c:latest"),
    ],
)
def test_normal_form(reference: str, normal: str) -> None:
    assert str(parse_image(reference)) == normal
    assert str(parse_image(normal)) == normal


@pytest.mark.parametrize(
    "reference",
    [
        "Busybox",
        "busybox:",
        "busybox:-x",
        "busybox:" + "x" * 129,
        "busybox@sha256:12",
        f"busybox@sha512:{'0' * 128}",
        "busybox@",
        "@" + DIGEST,
        ":1",
        "/busybox",
        "a//b",
        "a/../b",
        "../busybox",
        "ghcr.io/",
        "ghcr.io:port/a",
        "-bad.example.com/a",
        "https://ghcr.io/acme/app",
        "busy box",
        "busybox\n",
        "busybox\0",
        " busybox",
        "bücher",
        DIGEST,
        DIGEST.removeprefix("sha256:"),
        "a/" * 128 + "a",
        "a" * 513,
    ],
)
def test_malformed(reference: str) -> None:
    with pytest.raises(ValueError, match=r"must|digest|registry|tag"):
        parse_image(reference)


@given(st.text(max_size=80))
def test_any_text_is_refused_or_has_a_stable_normal_form(text: str) -> None:
    try:
        normal = str(parse_image(text))
    except ValueError:
        return
    assert str(parse_image(normal)) == normal


@pytest.mark.parametrize(
    ("pattern", "reference", "allowed"),
    [
        ("docker.io/library/*", "busybox:1", True),
        ("docker.io/library/*", "acme/busybox", False),
        ("docker.io/library/busybox", "busybox:9", True),
        ("docker.io/library/busybox", "busyboxes", False),
        ("docker.io/library/busybox:1.*", "busybox:1.36", True),
        ("docker.io/library/busybox:1.*", "busybox:2", False),
        ("ghcr.io/acme/*", f"ghcr.io/acme/team/app@{DIGEST}", True),
        ("ghcr.io/acme/*", "ghcr.io.example.com/acme/app", False),
        ("busybox", "busybox", False),
        ("*", "anything/at/all", True),
    ],
)
def test_allowed_images(pattern: str, reference: str, allowed: bool) -> None:
    image = parse_image(reference)
    found = refusal(image, allowed_images=("example.com/none", pattern), require_digest=False)
    assert (found is None) is allowed


def test_no_patterns_allow_every_image_and_a_digest_can_be_required() -> None:
    by_tag, by_digest = parse_image("busybox:1"), parse_image(f"busybox@{DIGEST}")
    assert refusal(by_tag, allowed_images=(), require_digest=False) is None
    assert "digest" in (refusal(by_tag, allowed_images=(), require_digest=True) or "")
    assert refusal(by_digest, allowed_images=(), require_digest=True) is None
