"""What every way of voting must do, and the configuration's promises."""

import json
import subprocess
import sys
from typing import get_args

import pytest

from idgrpo.annotate.config import AnnotateConfig
from idgrpo.errors import UsageError
from idgrpo.run.config import load_config
from idgrpo.stages.annotate import VOTING, Voters


def test_the_command_line_offers_every_way_of_voting():
    assert set(VOTING) == set(get_args(Voters))


def test_the_configuration_survives_json_and_refuses_unknown_keys():
    config = AnnotateConfig()
    assert AnnotateConfig.model_validate(json.loads(config.model_dump_json())) == config
    with pytest.raises(UsageError, match="overlap"):
        load_config(AnnotateConfig, None, ["queue.overlp=2"])


def test_command_and_server_import_no_torch():
    script = (
        "import sys, idgrpo.stages.annotate, idgrpo.annotate.config, idgrpo.annotate.stage, idgrpo.annotate.session, "
        "idgrpo.annotate.server, idgrpo.annotate.media, idgrpo.annotate.judge, idgrpo.stages.judging; print([m for m in ('torch', 'transformers', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
