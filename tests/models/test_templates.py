import json

import pytest

from codefend.models.prompts.templates import Task, Template, read_templates, render


@pytest.mark.parametrize("task", list(Task))
def test_the_shipped_templates_carry_the_question(task):
    assert "where is {the} cat?" in render(task, "where is {the} cat?")


def test_a_caption_needs_no_question_and_vqa_does():
    assert render("caption")
    with pytest.raises(ValueError, match="needs a question"):
        render("vqa")


@pytest.mark.parametrize("text", ["no place", "{question} {question}"])
def test_a_template_has_one_place(text):
    with pytest.raises(ValueError, match="exactly once"):
        Template("x", "1", text)


def test_names_and_versions_are_text(tmp_path):
    path = tmp_path / "templates.json"
    entry = {"name": "x", "version": 1, "text": "{question}"}
    path.write_text(json.dumps(dict.fromkeys(("caption", "vqa", "chat"), entry)))
    with pytest.raises(ValueError, match="are strings"):
        read_templates(path)


def test_a_file_without_a_task_is_refused(tmp_path):
    entry = {"name": "x", "version": "1", "text": "{question}"}
    path = tmp_path / "templates.json"
    path.write_text(json.dumps({"caption": entry, "vqa": entry}))
    with pytest.raises(ValueError, match="no template for chat"):
        read_templates(path)
