"""The configuration's schema: one small frozen dataclass a component, with its defaults and its ranges.

Read by `common.config`, which merges YAML files and `key=value` overrides into it. A field's allowed range stands in
its metadata (`_field`), and is checked with the full key in the error.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from lamer.common.records import MemoryMode


class Prompting(enum.StrEnum):
    """What a play prompt asks for: the action alone (act), or reasoning and then the action (react).

    react is ReAct's alternation of thought and action (Yao et al. 2023), and what the paper's own prompts ask for.
    """

    ACT = "act"
    REACT = "react"


def _field(default: Any, *, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()) -> Any:
    """A field with a default and a range: low <= value <= high, or one of `choices`."""
    return field(default=default, metadata={"low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class RunSettings:
    """Where a run lives. name "": the configuration file's name and the next free number."""

    name: str = ""
    directory: str = "runs"
    seed: int = _field(0, low=0)


@dataclass(frozen=True)
class PocketSettings:
    """Size of the `pocket` model (Qwen3 architecture), created when `model.path` is empty."""

    hidden: int = _field(96, low=8)
    layers: int = _field(2, low=1)
    heads: int = _field(4, low=1)
    kv_heads: int = _field(2, low=1)
    head_dim: int = _field(24, low=4)
    intermediate: int = _field(192, low=8)
    vocabulary: int = _field(512, low=260)
    context: int = _field(1024, low=16)


@dataclass(frozen=True)
class WarmstartSettings:
    """Supervised warm start on scripted random play: the output format, not the skill. steps 0: none.

    prompt_weight: weight of predicting the prompts as well, which teaches a model of random weights to read them.
    also: options of the environment, each over env.options, that are played in turn with env.options itself, so that
    the model can read and answer harder tasks than it is trained on: [{mines: 4}, {board: 5, mines: 4}].
    """

    steps: int = _field(400, low=0)
    trials: int = _field(2000, low=1)
    batch: int = _field(64, low=1)
    learning_rate: float = _field(3e-3, low=0.0)
    prompt_weight: float = _field(0.5, low=0.0)
    also: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class ModelSettings:
    """The policy: a Hugging Face model folder, or "" for `pocket`. chat_template: use the folder's own template.

    enable_thinking: what the template is told of that name; Qwen3's, for one, then lets the model think first.
    architecture: what `lamer train --dry-run` takes the model for where the folder `path` is not there.
    """

    path: str = ""
    architecture: str = _field("", choices=("", "qwen3-0.6b", "qwen3-4b", "llama-3.1-8b"))
    chat_template: bool = True
    enable_thinking: bool = False
    pocket: PocketSettings = field(default_factory=PocketSettings)
    warmstart: WarmstartSettings = field(default_factory=WarmstartSettings)


@dataclass(frozen=True)
class EnvSettings:
    """The environment by its registry name, and its own options (checked against the environment's schema)."""

    name: str = "doors"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialSettings:
    """What one trial is, and how responses are sampled in training. Plain RL: episodes 1, memory none.

    prompting: whether full prompts ask to reason before acting; shorter layouts always ask for the action alone.
    max_turns 0: the environment's own. max_prompt_tokens: a longer prompt ends the trial as context_overflow. shorten:
    before that, leave out old observations, then old steps, then past attempts' steps (`actors.shortening`), counted.
    """

    episodes: int = _field(3, low=1)
    memory: MemoryMode = MemoryMode.BOTH
    prompting: Prompting = Prompting.REACT
    max_turns: int = _field(0, low=0)
    max_prompt_tokens: int = _field(2048, low=1)
    shorten: bool = True
    max_response_tokens: int = _field(1024, low=1)
    max_reflection_tokens: int = _field(1024, low=1)
    temperature: float = _field(1.0, low=0.01)
    top_p: float = _field(1.0, low=0.01, high=1.0)
    top_k: int = _field(0, low=0)


@dataclass(frozen=True)
class BatchSettings:
    """What one update trains on: `groups` tasks, each played by `group_size` trials.

    max_staleness: how many updates old a trial's oldest token may be when it is trained; 0 is synchronous.
    """

    groups: int = _field(16, low=1)
    group_size: int = _field(8, low=1)
    updates: int = _field(300, low=0)
    max_staleness: int = _field(4, low=0)
    on_stale: str = _field("drop", choices=("drop", "train"))


@dataclass(frozen=True)
class CreditSettings:
    """Returns: Eq. 3 and 4 of the paper. trial_discount 0: each episode for itself."""

    form: str = _field("paper", choices=("paper", "reference"))
    step_discount: float = _field(0.95, low=0.0, high=1.0)
    trial_discount: float = _field(0.6, low=0.0, high=1.0)


@dataclass(frozen=True)
class AdvantageSettings:
    """gigpo: advantage = episode_weight * episode part + step_weight * step part. The others: from cross-episode
    returns; ppo compares them with a critic's values (`critic`).

    gae_lambda: of ppo. whiten: the batch's advantages, of any estimator, less their mean and divided by their std.
    """

    estimator: str = _field("gigpo", choices=("gigpo", "grpo", "rloo", "ppo", "reinforce_pp"))
    episode_weight: float = _field(1.0, low=0.0)
    step_weight: float = _field(1.0, low=0.0)
    normalise: str = _field("mean", choices=("mean", "mean_std"))
    invalid_action_penalty: float = _field(0.5, low=0.0)
    gae_lambda: float = _field(1.0, low=0.0, high=1.0)
    whiten: bool = False


@dataclass(frozen=True)
class CriticSettings:
    """The critic of `advantage.estimator: ppo`; no other estimator has one.

    kind: head, a linear head on the policy's last hidden state, whose loss trains the policy's layers as well; or
    separate, a model of its own that starts as the policy. learning_rate: constant, of the critic's own parameters.
    value_weight: of the value loss. clip: how far a value may move in one update, in units of reward; 0: any distance.
    warmup_updates: so many updates at the start train the critic's own parameters only.
    """

    kind: str = _field("head", choices=("head", "separate"))
    learning_rate: float = _field(1e-5, low=0.0)
    value_weight: float = _field(0.5, low=0.0)
    clip: float = _field(0.0, low=0.0)
    warmup_updates: int = _field(0, low=0)


@dataclass(frozen=True)
class LossSettings:
    """Policy loss. importance_cap: upper bound of pi_prox / pi_behave (decoupled_ppo) or pi_theta / pi_behave (tis).
    entropy goes linearly to entropy_final. kl_weight: of the KL to the model that the run started from, which is then
    loaded a second time; 0: none.
    """

    kind: str = _field("decoupled_ppo", choices=("decoupled_ppo", "ppo_clip", "uncorrected", "tis", "cispo", "gspo"))
    clip_low: float = _field(0.2, low=0.0, high=1.0)
    clip_high: float = _field(0.2, low=0.0)
    dual_clip: float = _field(3.0, low=1.0)
    importance_cap: float = _field(5.0, low=1.0)
    entropy: float = _field(0.001, low=0.0)
    entropy_final: float = _field(0.001, low=0.0)
    kl_weight: float = _field(0.0, low=0.0)


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW. minibatches: optimizer steps per batch. pack_tokens: most tokens of one forward pass.

    kind: adamw keeps weights and moments in float32, 16 bytes a parameter with its gradient. adamw_8bit keeps bfloat16
    weights, rounded stochastically, and moments of 8 bits (torchao): 6 bytes.

    minibatch_unit: what is dealt to minibatches: single responses, so that they are of equal size; or whole trials,
    whose prompts share their history, so that a pack holds it once: fewer tokens for the same responses.
    max_grad_norm 0: gradients are not clipped. warmup_updates: the learning rate rises linearly over so many updates.
    schedule: after that it stays, or falls linearly towards nothing at the last update.
    """

    kind: str = _field("adamw", choices=("adamw", "adamw_8bit"))
    learning_rate: float = _field(1e-6, low=0.0)
    warmup_updates: int = _field(0, low=0)
    schedule: str = _field("constant", choices=("constant", "linear"))
    beta1: float = _field(0.9, low=0.0, high=1.0)
    beta2: float = _field(0.999, low=0.0, high=1.0)
    epsilon: float = _field(1e-8, low=0.0)
    weight_decay: float = _field(0.01, low=0.0)
    max_grad_norm: float = _field(1.0, low=0.0)
    minibatches: int = _field(1, low=1)
    minibatch_unit: str = _field("response", choices=("response", "trial"))
    pack_tokens: int = _field(16384, low=16)


@dataclass(frozen=True)
class TrainerSettings:
    """Where and how the trainer computes. checkpoint_every: updates between durable checkpoints.

    dtype: of the forward pass; auto is resolved once, for trainer and engine, when a run is created
    (`deploy.run.precision`). auto_dtype is written then: lamer chose, and on another machine it may choose otherwise
    for the same run.

    compile: auto compiles the model's layers on CUDA. recompute: layers keeps their inputs alone for the backward pass
    and computes the rest of a layer again, which costs about a fifth of the speed; auto does where memory asks for it.

    parity_responses: responses of each update that are scored again under the version that sampled them, to compare
    engine and trainer; it reads that version's weights from disk once an update. 0: none.

    gpus: processes that train one model together, sharded (FSDP2), a GPU each; on a machine without GPUs they share its
    processor. collective_seconds: an exchange between them that takes longer has failed, and all of them are started
    again from the last checkpoint.

    watchdog_seconds: an update that takes longer, from its batch to its checkpoint, hangs: the stacks of all threads go
    to the trainer's log, and it is started again from the last checkpoint. Loading the model may take as long.

    group_address: where hosts reach the trainer for broadcasts (`inference.delivery` gloo or nccl); an address of this
    machine. "": that of gateway.bind, or, where it listens everywhere, the one that this machine's name stands for.
    """

    device: str = "auto"
    dtype: str = _field("auto", choices=("auto", "float32", "bfloat16"))
    auto_dtype: bool = False
    gpus: int = _field(1, low=1)
    collective_seconds: float = _field(1800.0, low=1.0)
    compile: str = _field("auto", choices=("auto", "none"))
    recompute: str = _field("auto", choices=("auto", "none", "layers"))
    threads: int = _field(1, low=1)
    checkpoint_every: int = _field(20, low=1)
    keep_checkpoints: int = _field(2, low=1)
    parity_responses: int = _field(16, low=0)
    watchdog_seconds: float = _field(7200.0, low=0.1)
    group_address: str = ""


@dataclass(frozen=True)
class InferenceSettings:
    """The inference servers. max_running: sequences in one server's batch. update_mode: how a weight update pauses
    it; wait lets running requests end first. routing: which server gets a request, random for comparison only.

    delivery: how weights reach a host. path: it reads the learner's folder, on the same machine or a shared disk.
    stream: over the run's socket, as differences from what it holds; every anchor_every versions whole. gloo, nccl:
    broadcast by the trainer, in buckets of bucket_bytes. auto: path where the folder can be read, else stream.

    dtype: auto is what the trainer computes in. Of SGLang alone: sglang_python, the interpreter that has it ("":
    `.venv-sglang` of the checkout, else lamer's own); GPUs of one replica, and replicas. With a GPU it sizes its cache
    itself, whatever cache_tokens says.
    """

    engine: str = _field("embedded", choices=("embedded", "sglang"))
    servers: int = _field(1, low=0)
    max_running: int = _field(128, low=1)
    cache_tokens: int = _field(65536, low=64)
    update_mode: str = _field("retract", choices=("in_place", "retract", "abort", "wait"))
    delivery: str = _field("auto", choices=("auto", "path", "stream", "gloo", "nccl"))
    anchor_every: int = _field(32, low=1)
    bucket_bytes: int = _field(512 * 1024 * 1024, low=1024)
    routing: str = _field("affinity", choices=("affinity", "random"))
    request_seconds: float = _field(300.0, low=0.1)
    retries: int = _field(5, low=0)
    sglang_python: str = ""
    dtype: str = _field("auto", choices=("auto", "float32", "bfloat16"))
    tensor_parallel: int = _field(1, low=1)
    data_parallel: int = _field(1, low=1)


@dataclass(frozen=True)
class ActorSettings:
    """processes: started by `lamer train`. trials: run at once by each."""

    processes: int = _field(1, low=0)
    trials: int = _field(128, low=1)


@dataclass(frozen=True)
class GatewaySettings:
    """The learner's socket. port 0: a free one. slot_retries: leases of a slot before its group is dropped.

    quarantine_bytes: of trials that can't be what was leased, kept in the run's folder at most.
    max_trials_per_actor: leased to one actor at once, however many it offers to play.
    """

    bind: str = "tcp://127.0.0.1"
    port: int = _field(0, low=0, high=65535)
    keys: str = ""
    lease_seconds: float = _field(900.0, low=0.1)
    slot_retries: int = _field(3, low=0)
    heartbeat_seconds: float = _field(2.0, low=0.05)
    dead_after_seconds: float = _field(20.0, low=0.1)
    credit_bytes: int = _field(256 * 1024 * 1024, low=1024)
    quarantine_bytes: int = _field(64 * 1024 * 1024, low=0)
    max_trials_per_actor: int = _field(4096, low=1)


@dataclass(frozen=True)
class EvaluationSettings:
    """Measuring pass@k: `tasks` tasks (seeds disjoint from training's), each played by one trial in each of `rounds`
    rounds, which differ in their sampling seeds alone. episodes: of a trial, any number, whatever training plays.

    initial: measure the policy before training as well. every: and after every so many updates, 0 for never; the next
    update waits until it is done, while rollouts go on as far as max_staleness lets them. memory: what later episodes
    are shown of earlier ones, none for independent attempts, "" for trial.memory. split: the environment's option of
    that name, "" for what env.options says.
    """

    initial: bool = True
    every: int = _field(0, low=0)
    tasks: int = _field(128, low=0)
    rounds: int = _field(1, low=1)
    episodes: int = _field(3, low=1)
    memory: str = _field("", choices=("", *(mode.value for mode in MemoryMode)))
    split: str = ""
    temperature: float = _field(0.7, low=0.01)
    top_p: float = _field(1.0, low=0.01, high=1.0)
    top_k: int = _field(0, low=0)


@dataclass(frozen=True)
class TrackingSettings:
    """MLflow. uri "": a sqlite file in the run directory's parent."""

    mlflow: bool = True
    uri: str = ""
    experiment: str = "lamer"


@dataclass(frozen=True)
class Settings:
    """The whole configuration; every component is handed its own section of it."""

    run: RunSettings = field(default_factory=RunSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    env: EnvSettings = field(default_factory=EnvSettings)
    trial: TrialSettings = field(default_factory=TrialSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    credit: CreditSettings = field(default_factory=CreditSettings)
    advantage: AdvantageSettings = field(default_factory=AdvantageSettings)
    critic: CriticSettings = field(default_factory=CriticSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    actor: ActorSettings = field(default_factory=ActorSettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
