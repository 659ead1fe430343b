"""The suites of raycompress.testing, passed by the plug-in of tests/plugin and by compressors and proposers of ours."""

import pytest

from raycompress.testing.compressors import CompressorSuite
from raycompress.testing.exports import ExporterSuite
from raycompress.testing.proposers import ProposerSuite


@pytest.mark.usefixtures("plugin")
class TestAlike(CompressorSuite):
    compressor = "alike"
    arguments = {"opposite": True, "others": 2}


@pytest.mark.usefixtures("plugin")
class TestHalton(ProposerSuite):
    proposer = "halton"


@pytest.mark.usefixtures("plugin")
class TestExportedProgram(ExporterSuite):
    export = "pt2"


class TestL1Filter(CompressorSuite):
    compressor = "l1_filter"


class TestLevel(CompressorSuite):
    compressor = "level"


class TestApoz(CompressorSuite):
    compressor = "activation_apoz_rank_filter"


class TestGroupL1(CompressorSuite):
    compressor = "group_l1"
    arguments = {"round_to": 1}


class TestRandom(ProposerSuite):
    proposer = "random"


class TestTpe(ProposerSuite):
    proposer = "optuna"


class TestHyperopt(ProposerSuite):
    proposer = "hyperopt"
