from esscher.v1 import samples_pb2 as _samples_pb2
from esscher.v1 import target_pb2 as _target_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Report(_message.Message):
    __slots__ = ("version", "counts", "reward", "kl", "trainer_kl", "prior_perplexity", "entropy", "target", "diversity", "target_diversity", "top_ngrams", "per_completion", "warnings", "unavailable", "excess_collapse", "mutual_information", "tokens")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    KL_FIELD_NUMBER: _ClassVar[int]
    TRAINER_KL_FIELD_NUMBER: _ClassVar[int]
    PRIOR_PERPLEXITY_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    DIVERSITY_FIELD_NUMBER: _ClassVar[int]
    TARGET_DIVERSITY_FIELD_NUMBER: _ClassVar[int]
    TOP_NGRAMS_FIELD_NUMBER: _ClassVar[int]
    PER_COMPLETION_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    EXCESS_COLLAPSE_FIELD_NUMBER: _ClassVar[int]
    MUTUAL_INFORMATION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    version: str
    counts: Counts
    reward: Estimate
    kl: _containers.RepeatedCompositeFieldContainer[KlEstimate]
    trainer_kl: _containers.RepeatedCompositeFieldContainer[KlEstimate]
    prior_perplexity: float
    entropy: float
    target: TargetReport
    diversity: _containers.RepeatedCompositeFieldContainer[Diversity]
    target_diversity: _containers.RepeatedCompositeFieldContainer[Diversity]
    top_ngrams: _containers.RepeatedCompositeFieldContainer[NgramTable]
    per_completion: PerCompletion
    warnings: _containers.RepeatedCompositeFieldContainer[Warning]
    unavailable: _containers.RepeatedCompositeFieldContainer[Unavailable]
    excess_collapse: _containers.RepeatedCompositeFieldContainer[Diversity]
    mutual_information: MutualInformation
    tokens: _samples_pb2.Tokens
    def __init__(self, version: _Optional[str] = ..., counts: _Optional[_Union[Counts, _Mapping]] = ..., reward: _Optional[_Union[Estimate, _Mapping]] = ..., kl: _Optional[_Iterable[_Union[KlEstimate, _Mapping]]] = ..., trainer_kl: _Optional[_Iterable[_Union[KlEstimate, _Mapping]]] = ..., prior_perplexity: _Optional[float] = ..., entropy: _Optional[float] = ..., target: _Optional[_Union[TargetReport, _Mapping]] = ..., diversity: _Optional[_Iterable[_Union[Diversity, _Mapping]]] = ..., target_diversity: _Optional[_Iterable[_Union[Diversity, _Mapping]]] = ..., top_ngrams: _Optional[_Iterable[_Union[NgramTable, _Mapping]]] = ..., per_completion: _Optional[_Union[PerCompletion, _Mapping]] = ..., warnings: _Optional[_Iterable[_Union[Warning, _Mapping]]] = ..., unavailable: _Optional[_Iterable[_Union[Unavailable, _Mapping]]] = ..., excess_collapse: _Optional[_Iterable[_Union[Diversity, _Mapping]]] = ..., mutual_information: _Optional[_Union[MutualInformation, _Mapping]] = ..., tokens: _Optional[_Union[_samples_pb2.Tokens, str]] = ...) -> None: ...

class MutualInformation(_message.Message):
    __slots__ = ("value", "stderr", "interval", "bound")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    value: float
    stderr: float
    interval: Interval
    bound: float
    def __init__(self, value: _Optional[float] = ..., stderr: _Optional[float] = ..., interval: _Optional[_Union[Interval, _Mapping]] = ..., bound: _Optional[float] = ...) -> None: ...

class Counts(_message.Message):
    __slots__ = ("prompts", "completions", "tokens", "terminated")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    COMPLETIONS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_FIELD_NUMBER: _ClassVar[int]
    prompts: int
    completions: int
    tokens: int
    terminated: int
    def __init__(self, prompts: _Optional[int] = ..., completions: _Optional[int] = ..., tokens: _Optional[int] = ..., terminated: _Optional[int] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("value", "stderr")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    value: float
    stderr: float
    def __init__(self, value: _Optional[float] = ..., stderr: _Optional[float] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("low", "high", "assumes")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    ASSUMES_FIELD_NUMBER: _ClassVar[int]
    low: float
    high: float
    assumes: str
    def __init__(self, low: _Optional[float] = ..., high: _Optional[float] = ..., assumes: _Optional[str] = ...) -> None: ...

class KlEstimate(_message.Message):
    __slots__ = ("estimator", "value", "stderr", "per_sequence", "signature", "interval", "raw", "clamped", "ess", "pareto_k", "warnings")
    ESTIMATOR_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    PER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    CLAMPED_FIELD_NUMBER: _ClassVar[int]
    ESS_FIELD_NUMBER: _ClassVar[int]
    PARETO_K_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    estimator: str
    value: float
    stderr: float
    per_sequence: _containers.RepeatedScalarFieldContainer[float]
    signature: str
    interval: Interval
    raw: float
    clamped: float
    ess: float
    pareto_k: float
    warnings: _containers.RepeatedCompositeFieldContainer[Warning]
    def __init__(self, estimator: _Optional[str] = ..., value: _Optional[float] = ..., stderr: _Optional[float] = ..., per_sequence: _Optional[_Iterable[float]] = ..., signature: _Optional[str] = ..., interval: _Optional[_Union[Interval, _Mapping]] = ..., raw: _Optional[float] = ..., clamped: _Optional[float] = ..., ess: _Optional[float] = ..., pareto_k: _Optional[float] = ..., warnings: _Optional[_Iterable[_Union[Warning, _Mapping]]] = ...) -> None: ...

class Warning(_message.Message):
    __slots__ = ("code", "what", "where", "evidence", "remedy")
    CODE_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    code: str
    what: str
    where: _containers.RepeatedScalarFieldContainer[str]
    evidence: str
    remedy: str
    def __init__(self, code: _Optional[str] = ..., what: _Optional[str] = ..., where: _Optional[_Iterable[str]] = ..., evidence: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class Diversity(_message.Message):
    __slots__ = ("metric", "within", "interval", "left_out", "across")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    WITHIN_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    ACROSS_FIELD_NUMBER: _ClassVar[int]
    metric: str
    within: Estimate
    interval: Interval
    left_out: int
    across: float
    def __init__(self, metric: _Optional[str] = ..., within: _Optional[_Union[Estimate, _Mapping]] = ..., interval: _Optional[_Union[Interval, _Mapping]] = ..., left_out: _Optional[int] = ..., across: _Optional[float] = ...) -> None: ...

class NgramTable(_message.Message):
    __slots__ = ("order", "ngrams")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    NGRAMS_FIELD_NUMBER: _ClassVar[int]
    order: int
    ngrams: _containers.RepeatedCompositeFieldContainer[Ngram]
    def __init__(self, order: _Optional[int] = ..., ngrams: _Optional[_Iterable[_Union[Ngram, _Mapping]]] = ...) -> None: ...

class Ngram(_message.Message):
    __slots__ = ("token_ids", "count")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    count: int
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., count: _Optional[int] = ...) -> None: ...

class TargetReport(_message.Message):
    __slots__ = ("target", "proposal", "log_z", "reward", "ess", "pareto_k", "elbo", "inference_gap", "objective", "objective_bound", "inference_gap_interval", "forward_kl", "eubo")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    LOG_Z_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    ESS_FIELD_NUMBER: _ClassVar[int]
    PARETO_K_FIELD_NUMBER: _ClassVar[int]
    ELBO_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_GAP_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_BOUND_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_GAP_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    FORWARD_KL_FIELD_NUMBER: _ClassVar[int]
    EUBO_FIELD_NUMBER: _ClassVar[int]
    target: str
    proposal: _target_pb2.Proposal
    log_z: Estimate
    reward: Estimate
    ess: float
    pareto_k: float
    elbo: Estimate
    inference_gap: Estimate
    objective: Estimate
    objective_bound: Estimate
    inference_gap_interval: Interval
    forward_kl: KlEstimate
    eubo: Estimate
    def __init__(self, target: _Optional[str] = ..., proposal: _Optional[_Union[_target_pb2.Proposal, str]] = ..., log_z: _Optional[_Union[Estimate, _Mapping]] = ..., reward: _Optional[_Union[Estimate, _Mapping]] = ..., ess: _Optional[float] = ..., pareto_k: _Optional[float] = ..., elbo: _Optional[_Union[Estimate, _Mapping]] = ..., inference_gap: _Optional[_Union[Estimate, _Mapping]] = ..., objective: _Optional[_Union[Estimate, _Mapping]] = ..., objective_bound: _Optional[_Union[Estimate, _Mapping]] = ..., inference_gap_interval: _Optional[_Union[Interval, _Mapping]] = ..., forward_kl: _Optional[_Union[KlEstimate, _Mapping]] = ..., eubo: _Optional[_Union[Estimate, _Mapping]] = ...) -> None: ...

class PerCompletion(_message.Message):
    __slots__ = ("lengths", "rewards", "kl", "log_weights", "prompts")
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    KL_FIELD_NUMBER: _ClassVar[int]
    LOG_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    rewards: _containers.RepeatedScalarFieldContainer[float]
    kl: _containers.RepeatedScalarFieldContainer[float]
    log_weights: _containers.RepeatedScalarFieldContainer[float]
    prompts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, lengths: _Optional[_Iterable[int]] = ..., rewards: _Optional[_Iterable[float]] = ..., kl: _Optional[_Iterable[float]] = ..., log_weights: _Optional[_Iterable[float]] = ..., prompts: _Optional[_Iterable[int]] = ...) -> None: ...

class Unavailable(_message.Message):
    __slots__ = ("name", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
