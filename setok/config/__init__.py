"""Every setting of every job: frozen, typed, and strict.

A job is described by one YAML file, a *preset* that ships with the package or a file of the user's. ``load_config`` reads it,
applies ``extends`` (a mapping that names another preset starts from that one), then dotted overrides, and checks it all:
an unknown key is an error that names the closest known one. Nothing here imports torch, so a head node without a GPU
validates a run in a second.
"""

from __future__ import annotations

from setok.config.data import (
    AugmentConfig,
    DataConfig,
    MixtureEntry,
    ScenesConfig,
    SourceConfig,
)
from setok.config.evaluation import (
    EvaluateConfig,
    NetworksConfig,
)
from setok.config.job import Job
from setok.config.jobs import (
    IngestConfig,
    PipelineConfig,
    ServeConfig,
    TrainConfig,
    WordsConfig,
)
from setok.config.loading import (
    JOBS,
    build,
    dump_config,
    list_presets,
    load_any_config,
    load_config,
    set_value,
)
from setok.config.loss import (
    SetokimLossConfig,
    TokenizerLossConfig,
)
from setok.config.model import (
    ClusteringConfig,
    ConceptConfig,
    DetokenizerConfig,
    DiscriminatorConfig,
    EncoderConfig,
    FlowConfig,
    MergerConfig,
    TokenizerConfig,
)
from setok.config.section import (
    Section,
    differences,
)
from setok.config.sequence import (
    ChatConfig,
    SequenceConfig,
)
from setok.config.serving import (
    AccessConfig,
    BatchingConfig,
    IngressConfig,
    LimitsConfig,
    ReplicaConfig,
    ServeSection,
)
from setok.config.setokim import (
    LanguageModelConfig,
    LoraConfig,
    MaskDecoderConfig,
    SetokimConfig,
    TokenDiffusionConfig,
)
from setok.config.thresholds import ThresholdsConfig
from setok.config.training import (
    CheckpointConfig,
    DeepSpeedConfig,
    LoggingConfig,
    OptimConfig,
    ScalingConfig,
    TrainSection,
    ValidationConfig,
    WandbConfig,
)
from setok.config.tune import (
    THEN,
    Dimension,
    HalvingConfig,
    Objective,
    TuneConfig,
    in_section,
)

__all__ = [
    "JOBS",
    "THEN",
    "AccessConfig",
    "AugmentConfig",
    "BatchingConfig",
    "ChatConfig",
    "CheckpointConfig",
    "ClusteringConfig",
    "ConceptConfig",
    "DataConfig",
    "DeepSpeedConfig",
    "DetokenizerConfig",
    "Dimension",
    "DiscriminatorConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "FlowConfig",
    "HalvingConfig",
    "IngestConfig",
    "IngressConfig",
    "Job",
    "LanguageModelConfig",
    "LimitsConfig",
    "LoggingConfig",
    "LoraConfig",
    "MaskDecoderConfig",
    "MergerConfig",
    "MixtureEntry",
    "NetworksConfig",
    "Objective",
    "OptimConfig",
    "PipelineConfig",
    "ReplicaConfig",
    "ScalingConfig",
    "ScenesConfig",
    "Section",
    "SequenceConfig",
    "ServeConfig",
    "ServeSection",
    "SetokimConfig",
    "SetokimLossConfig",
    "SourceConfig",
    "ThresholdsConfig",
    "TokenDiffusionConfig",
    "TokenizerConfig",
    "TokenizerLossConfig",
    "TrainConfig",
    "TrainSection",
    "TuneConfig",
    "ValidationConfig",
    "WandbConfig",
    "WordsConfig",
    "build",
    "differences",
    "dump_config",
    "in_section",
    "list_presets",
    "load_any_config",
    "load_config",
    "set_value",
]
