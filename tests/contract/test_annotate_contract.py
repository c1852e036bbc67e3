"""What every way of voting must do, and the configuration's promises."""

import json
import subprocess
import sys
from importlib import import_module

import pytest

from idgrpo.annotate import VOTERS
from idgrpo.annotate.config import AnnotateConfig
from idgrpo.cli.annotate import VOTING
from idgrpo.errors import UsageError
from idgrpo.run.config import load_config


@pytest.mark.parametrize("by", sorted(VOTERS))
def test_each_way_of_voting_can_be_imported_and_called_from_the_command_line(by):
    module, _, name = VOTERS[by].partition(":")
    assert callable(getattr(import_module(module), name))
    assert by in VOTING


def test_the_command_line_offers_what_is_registered():
    assert set(VOTING) == set(VOTERS)


def test_the_configuration_survives_json_and_refuses_unknown_keys():
    config = AnnotateConfig()
    assert AnnotateConfig.model_validate(json.loads(config.model_dump_json())) == config
    with pytest.raises(UsageError, match="overlap"):
        load_config(AnnotateConfig, None, ["queue.overlp=2"])


def test_command_and_server_import_no_torch():
    script = (
        "import sys, idgrpo.cli.annotate, idgrpo.annotate.config, idgrpo.annotate.stage, idgrpo.annotate.session, "
        "idgrpo.annotate.server, idgrpo.annotate.media, idgrpo.annotate.judge, idgrpo.cli.judges; print([m for m in ('torch', 'transformers', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
