"""The command `app`: a page in the browser on which people try a trained task on their own images."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from belvedere.app.models import Model, opened_models
from ops.errors import ArgumentError
from ops.extras import check_installed

ADDRESS = "127.0.0.1"  # of this computer alone


def app(
    ckpt_path: str,
    compare: str | None = None,
    port: int = 7860,
    browser: bool = False,
    share: bool = False,
    trust: bool = False,
) -> int:
    """Opens a page in the browser on which you try a trained task on your own images.

    Args:
        ckpt_path: A checkpoint, a package of belvedere pack, or an ONNX file of belvedere export.
        compare: Another one of the same kind, to see side by side.
        port: Where the page is, http://127.0.0.1:PORT; the next free one is taken.
        browser: Open the page in the browser at once.
        share: Let everybody on the internet who knows its address use the page, through a server of Gradio.
        trust: Let the checkpoints' configs name any class, which can run any program.

    Returns:
        The exit code.

    Raises:
        MissingPackageError: gradio is not installed.
        ArgumentError: The checkpoints are of different kinds, or there is no free port.
    """
    check_installed("gradio", "The page needs")
    if not 1 <= port <= 65_535:
        raise ArgumentError(f"--port is {port}; expected 1 to 65535.")
    models = opened_models([ckpt_path] if compare is None else [ckpt_path, compare], trust)
    with serving(models, port, browser, share) as (local, public):
        print(f"The page is at {local}" + (f" and, for everybody, at {public}" if public else ""))
        print("It ends with Ctrl-C.", flush=True)
        threading.Event().wait()
    return 0


@contextmanager
def serving(
    models: list[Model], port: int, browser: bool = False, share: bool = False
) -> Iterator[tuple[str, str | None]]:
    """Serves the page as long as the block runs; yields its address, and the public one of a shared page.

    Uploaded images and results lie in a temporary folder until then.

    Args:
        models: What the page shows.
        port: The first port to try.
        browser: Whether to open the page in the browser.
        share: Whether to ask Gradio's server for a public address.

    Raises:
        ArgumentError: There is no free port.
    """
    with TemporaryDirectory(prefix="belvedere-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when it is imported
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        for name in ("NO_PROXY", "no_proxy"):  # Gradio asks its own page for a sign of life
            others = os.environ.get(name, "")
            if ADDRESS not in others:
                os.environ[name] = f"{others},{ADDRESS}".lstrip(",")
        from belvedere.app.page import LOOK, page, theme

        made = page(models, Path(folder), share)
        try:
            _, local, public = made.launch(
                server_name=ADDRESS,
                server_port=_free_port(port),
                share=share,
                inbrowser=browser,
                prevent_thread_lock=True,
                quiet=True,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                enable_monitoring=False,
                footer_links=[],
                _frontend=False,  # no deadline of three seconds for the first page: a busy computer misses it
                theme=theme(),
                css=LOOK,
            )
            yield local, public
        finally:
            made.close(verbose=False)


def _free_port(first: int) -> int:
    """Returns the first port from this one on that nothing listens on.

    Raises:
        ArgumentError: There is none among the next hundred.
    """
    for port in range(first, min(first + 100, 65_536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ADDRESS, port))
            except OSError:
                continue
            return port
    raise ArgumentError(f"No port from {first} on is free. Choose another --port.")
