"""``codefend-lab playground``: the page of the playground, by Gradio, on this machine alone.

Gradio is an extra of its own, and wants an older Pillow than the rest: ``make playground`` gives it
an environment. The page asks nobody else: its policy forbids it to the browser.
"""

import html
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import typer
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codefend.lab.attacks.pixels import decode_png
from codefend.lab.errors import LabError
from codefend.lab.experiments.settings import RunSettings
from codefend.lab.gallery.scenes import entry_truths, gallery_entries
from codefend.lab.playground.trials import (
    Answered,
    CleanPicture,
    LiveAttack,
    Studio,
    Wish,
    read_photo,
)
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.prompts.templates import SHIPPED_TEMPLATES
from codefend.models.purifier.strengths import Strength

__all__ = ["Playground", "PlaygroundRun", "run_playground"]

NUM_SCENES = 12
POLL_S = 0.2
_TABLE_HEAD = (
    "<thead><tr><th scope='col'>picture</th><th scope='col'>the model describes it</th>"
    "<th scope='col'>and answers</th></tr></thead>"
)
_STYLE = """
#answers table { width: 100%; border-collapse: collapse; }
#answers :is(th, td) { padding: .35rem .6rem; text-align: left; border-bottom: 1px solid #8884; }
"""
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
INTRODUCTION = """
# Attack it yourself

Pick a scene or a photo, say how far an attacker may go, and see what the model says of the picture
clean, attacked and purified. The embedded model knows the scenes' world alone: of a photo it says
little that is true, clean or not.
"""


class PlaygroundRun(RunSettings):
    """Serve the playground on this machine: attack a picture, and see what the defence leaves."""

    gallery: Path = Path("gallery")
    """Folder of `data gallery`: its first scenes are offered."""
    victim: str = str(WEIGHTS_DIRECTORY / "mllm")
    """Model that is attacked and asked: directory or hub id."""
    purifier: Path = WEIGHTS_DIRECTORY / "purifier"
    """Directory or hub id of the purifier."""
    prompts: Path = SHIPPED_TEMPLATES
    """JSON file of prompt templates."""
    port: int = 7860
    """Port to listen on, on 127.0.0.1; 0 takes any free port from 7860 on."""
    longest_side: int = 256
    """Pixels of a photo's longer side; a larger photo is scaled down."""


def run_playground(run: PlaygroundRun) -> None:
    """Loads the models and serves the page until it is interrupted."""
    studio = Studio.load(run.victim, run.purifier, run.prompts)
    Playground(studio, run).serve(run.port)


class _AskingNobodyElse:
    """Adds a policy to every answer, by which the browser loads nothing from elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message.get("headers", ()), policy]}
            await send(message)

        await self._app(scope, receive, send_with_policy)


class _Session:
    """One visitor's attack, which Cancel has to find."""

    def __init__(self) -> None:
        self.live: LiveAttack | None = None

    def cancel(self) -> None:
        """Ends the attack, if there is one."""
        if self.live is not None:
            self.live.cancel()


class Playground:
    """The page, and what its buttons do."""

    def __init__(self, studio: Studio, run: PlaygroundRun) -> None:
        """Takes the models and the settings.

        Raises:
            LabError: There is no gallery, or no Gradio.
        """
        try:
            import gradio
        except ImportError as error:
            raise LabError("the playground needs Gradio: make playground") from error
        self._gradio: Any = gradio
        self._studio = studio
        self._longest_side = run.longest_side
        self._scenes = [
            CleanPicture(
                decode_png((run.gallery / entry["clean"]).read_bytes()), tuple(entry_truths(entry))
            )
            for entry in gallery_entries(run.gallery)[:NUM_SCENES]
        ]

    def serve(self, port: int) -> None:
        """Serves the page on loopback until it is interrupted; says where, once it is ready."""
        page = self._build()
        _, address, _ = page.launch(
            server_name="127.0.0.1",
            server_port=port or None,
            share=False,
            show_error=True,
            ssr_mode=False,
            footer_links=[],
            max_file_size="32mb",
            css=_STYLE,
            theme=self._gradio.themes.Default(primary_hue="teal"),
            app_kwargs={"middleware": [Middleware(_AskingNobodyElse)]},
            quiet=True,  # it would advise to share the page with everybody
            prevent_thread_lock=True,
        )
        typer.echo(f"The playground is ready at {address} (Ctrl+C stops it).")
        page.block_thread()

    def _build(self) -> Any:
        """Lays out the page and wires it."""
        gr = self._gradio
        with gr.Blocks(title="CoDefend: playground", analytics_enabled=False) as page:
            original = gr.State(self._scenes[0])
            session = gr.State(_Session, delete_callback=_Session.cancel)
            gr.Markdown(INTRODUCTION)
            with gr.Row():
                with gr.Column():
                    pictures = self._lay_out_pictures()
                with gr.Column():
                    question, *wishes = self._lay_out_wishes()
                    with gr.Row():
                        attack = gr.Button("Attack", variant="primary")
                        purify = gr.Button("Purify as it is")
                        cancel = gr.Button("Cancel")
            status = gr.Markdown("Nothing was attacked yet.", elem_id="status")
            compared = gr.Gallery(
                label="Side by side",
                columns=5,
                height=290,
                format="png",
                object_fit="contain",
                elem_id="pictures",
            )
            answers = gr.HTML(elem_id="answers")
            self._wire_pictures(pictures, [original, pictures[0], question])
            shown = [status, compared, answers]
            attack.click(self._attack, [session, original, question, *wishes], shown)
            purify.click(self._purify, [original, question, wishes[-1]], shown)
            cancel.click(_Session.cancel, session, None, queue=False)
        return page

    def _lay_out_pictures(self) -> tuple[Any, Any, Any]:
        """The picture that is picked, the scenes, and where a photo goes."""
        gr = self._gradio
        picked = gr.Image(
            self._scenes[0].pixels,
            label="Picture",
            format="png",
            interactive=False,
            height=280,
            buttons=[],
            elem_id="picked",
            alt_text="The picture that is attacked",
        )
        scenes = gr.Gallery(
            [(scene.pixels, scene.truths[0].answer) for scene in self._scenes],
            label="Scenes",
            columns=6,
            format="png",
            allow_preview=False,
            height=240,
            interactive=False,
            elem_id="scenes",
        )
        photo = gr.File(label="A photo of your own", type="filepath", height=120, elem_id="photo")
        return picked, scenes, photo

    def _wire_pictures(self, pictures: tuple[Any, Any, Any], changed: list[Any]) -> None:
        import gradio as gr

        _, scenes, photo = pictures

        def pick_scene(event: gr.SelectData) -> tuple[CleanPicture, np.ndarray, str]:
            chosen = self._scenes[event.index]
            return chosen, chosen.pixels, _first_question(chosen)

        scenes.select(pick_scene, None, changed)
        photo.upload(self._pick_photo, photo, changed[:2])

    def _lay_out_wishes(self) -> list[Any]:
        """The question, and the fields of a wish in their order; the prompt is the last."""
        gr, prompt, strengths = self._gradio, self._studio.prompt, self._studio.strengths
        return [
            gr.Textbox(_first_question(self._scenes[0]), label="Question", elem_id="question"),
            gr.Slider(1, 16, 8, step=1, label="ε: levels of 255 that a value may change"),
            gr.Slider(5, 200, 50, step=5, label="Steps"),
            gr.Radio(["apgd", "pgd"], value="apgd", label="Attack"),
            gr.Textbox(
                "", label="Target", placeholder="what it shall say; empty: anything but the truth"
            ),
            gr.Checkbox(False, label="The attacker knows the defence", info="Slow, and stronger."),
            gr.Radio(
                [strength.value for strength in strengths],
                value=Strength.STANDARD.value,
                label="At this strength",
                info="Which one that attacker goes through.",
            ),
            gr.Checkbox(
                prompt is not None,
                label="Defensive prompt",
                interactive=prompt is not None,
                info=prompt or "The template says nothing beside the question.",
            ),
        ]

    def _pick_photo(self, path: str) -> tuple[CleanPicture, np.ndarray]:
        with self._told():
            pixels = read_photo(Path(path), self._longest_side)
        return CleanPicture(pixels), pixels

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Shows what the user can put right."""
        try:
            yield
        except LabError as error:
            raise self._gradio.Error(str(error), print_exception=False) from error

    def _attack(
        self, session: _Session, original: CleanPicture, question: str, *fields: Any
    ) -> Iterator[tuple[str, Any, Any]]:
        """Shows how far it is, then what came of it."""
        levels, steps, attack, target, knows_defence, strength, with_prompt = fields
        through = Strength(strength) if knows_defence else None
        with self._told():
            wish = Wish(int(levels), int(steps), attack, target.strip(), through)
        live = session.live = self._studio.attack(original, wish)
        started_s = time.monotonic()
        while not live.wait(POLL_S):
            done = max(0, live.num_done - 1)
            yield f"Step {done} of {wish.steps}…", *self._unchanged
        try:
            attacked = live.result()
        except CancelledError:
            yield f"Cancelled at step {live.num_done - 1} of {wish.steps}.", *self._unchanged
            return
        took = f"Attacked in {wish.steps} steps, {time.monotonic() - started_s:.1f} s."
        yield f"{took} Purifying, and asking the model…", *self._unchanged
        compared = self._studio.compare(
            original.pixels, attacked, question, with_prompt=with_prompt
        )
        yield f"{took} {_truth(original, question)}", *_show(compared)

    def _purify(
        self, original: CleanPicture, question: str, with_prompt: bool
    ) -> tuple[str, Any, Any]:
        """Without an attack: what the defence costs a clean picture."""
        compared = self._studio.compare(original.pixels, None, question, with_prompt=with_prompt)
        return f"Not attacked. {_truth(original, question)}", *_show(compared)

    @property
    def _unchanged(self) -> tuple[Any, Any]:
        return self._gradio.skip(), self._gradio.skip()


def _first_question(original: CleanPicture) -> str:
    return original.truths[1].prompt


def _truth(original: CleanPicture, question: str) -> str:
    """What is known of a scene: its caption, and the answer to one of its questions."""
    asked = [dialogue for dialogue in original.truths[1:] if dialogue.prompt == question]
    known = [dialogue.answer for dialogue in (*original.truths[:1], *asked)]
    return f"True of the scene: {'; '.join(known)}." if known else ""


def _show(compared: list[Answered]) -> tuple[list[tuple[np.ndarray, str]], str]:
    """The pictures with their names, and a table of what is said of each."""
    pictures = [(answered.pixels, answered.name) for answered in compared]
    rows = [
        f"<tr><th scope='row'>{answered.name}</th>"
        + "".join(f"<td>{html.escape(answer)}</td>" for answer in answered.answers)
        + "</tr>"
        for answered in compared
    ]
    return pictures, f"<table>{_TABLE_HEAD}<tbody>{''.join(rows)}</tbody></table>"
