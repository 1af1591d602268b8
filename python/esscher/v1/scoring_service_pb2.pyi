from esscher.v1 import report_pb2 as _report_pb2
from esscher.v1 import samples_pb2 as _samples_pb2
from esscher.v1 import target_pb2 as _target_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Column(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLUMN_UNSPECIFIED: _ClassVar[Column]
    COLUMN_PRIOR_LOGPROBS: _ClassVar[Column]
    COLUMN_POLICY_LOGPROBS: _ClassVar[Column]
    COLUMN_TOKEN_KL: _ClassVar[Column]
    COLUMN_POLICY_ENTROPY: _ClassVar[Column]
    COLUMN_REWARDS: _ClassVar[Column]
COLUMN_UNSPECIFIED: Column
COLUMN_PRIOR_LOGPROBS: Column
COLUMN_POLICY_LOGPROBS: Column
COLUMN_TOKEN_KL: Column
COLUMN_POLICY_ENTROPY: Column
COLUMN_REWARDS: Column

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "prior_name", "vocabulary_size", "end_token_ids", "max_tokens", "max_message_bytes", "max_batch_tokens", "policy_name", "policy_revision", "reward_name", "columns", "start_token_id")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PRIOR_NAME_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    END_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    POLICY_NAME_FIELD_NUMBER: _ClassVar[int]
    POLICY_REVISION_FIELD_NUMBER: _ClassVar[int]
    REWARD_NAME_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    START_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    version: str
    prior_name: str
    vocabulary_size: int
    end_token_ids: _containers.RepeatedScalarFieldContainer[int]
    max_tokens: int
    max_message_bytes: int
    max_batch_tokens: int
    policy_name: str
    policy_revision: int
    reward_name: str
    columns: _containers.RepeatedScalarFieldContainer[Column]
    start_token_id: int
    def __init__(self, version: _Optional[str] = ..., prior_name: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., end_token_ids: _Optional[_Iterable[int]] = ..., max_tokens: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_batch_tokens: _Optional[int] = ..., policy_name: _Optional[str] = ..., policy_revision: _Optional[int] = ..., reward_name: _Optional[str] = ..., columns: _Optional[_Iterable[_Union[Column, str]]] = ..., start_token_id: _Optional[int] = ...) -> None: ...

class ScoreSamplesRequest(_message.Message):
    __slots__ = ("samples", "columns")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    samples: _samples_pb2.Samples
    columns: _containers.RepeatedScalarFieldContainer[Column]
    def __init__(self, samples: _Optional[_Union[_samples_pb2.Samples, _Mapping]] = ..., columns: _Optional[_Iterable[_Union[Column, str]]] = ...) -> None: ...

class ScoreSamplesResponse(_message.Message):
    __slots__ = ("prior_logprobs", "policy_logprobs", "token_kl", "policy_entropy", "rewards", "unavailable", "prior_name", "policy_name", "policy_revision", "queue_seconds", "model_seconds")
    PRIOR_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    POLICY_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_KL_FIELD_NUMBER: _ClassVar[int]
    POLICY_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    PRIOR_NAME_FIELD_NUMBER: _ClassVar[int]
    POLICY_NAME_FIELD_NUMBER: _ClassVar[int]
    POLICY_REVISION_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODEL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    prior_logprobs: bytes
    policy_logprobs: bytes
    token_kl: bytes
    policy_entropy: bytes
    rewards: _containers.RepeatedScalarFieldContainer[float]
    unavailable: _containers.RepeatedCompositeFieldContainer[_report_pb2.Unavailable]
    prior_name: str
    policy_name: str
    policy_revision: int
    queue_seconds: float
    model_seconds: float
    def __init__(self, prior_logprobs: _Optional[bytes] = ..., policy_logprobs: _Optional[bytes] = ..., token_kl: _Optional[bytes] = ..., policy_entropy: _Optional[bytes] = ..., rewards: _Optional[_Iterable[float]] = ..., unavailable: _Optional[_Iterable[_Union[_report_pb2.Unavailable, _Mapping]]] = ..., prior_name: _Optional[str] = ..., policy_name: _Optional[str] = ..., policy_revision: _Optional[int] = ..., queue_seconds: _Optional[float] = ..., model_seconds: _Optional[float] = ...) -> None: ...

class TokenizeTextsRequest(_message.Message):
    __slots__ = ("prompts", "group_sizes", "completions", "add_special_tokens", "parse_special_tokens", "terminated")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    GROUP_SIZES_FIELD_NUMBER: _ClassVar[int]
    COMPLETIONS_FIELD_NUMBER: _ClassVar[int]
    ADD_SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PARSE_SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_FIELD_NUMBER: _ClassVar[int]
    prompts: _containers.RepeatedScalarFieldContainer[str]
    group_sizes: _containers.RepeatedScalarFieldContainer[int]
    completions: _containers.RepeatedScalarFieldContainer[str]
    add_special_tokens: bool
    parse_special_tokens: bool
    terminated: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, prompts: _Optional[_Iterable[str]] = ..., group_sizes: _Optional[_Iterable[int]] = ..., completions: _Optional[_Iterable[str]] = ..., add_special_tokens: bool = ..., parse_special_tokens: bool = ..., terminated: _Optional[_Iterable[bool]] = ...) -> None: ...

class TokenizeTextsResponse(_message.Message):
    __slots__ = ("samples",)
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    samples: _samples_pb2.Samples
    def __init__(self, samples: _Optional[_Union[_samples_pb2.Samples, _Mapping]] = ...) -> None: ...

class EstimateKlRequest(_message.Message):
    __slots__ = ("completion_lengths", "policy_logprobs", "prior_logprobs")
    COMPLETION_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    POLICY_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PRIOR_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    completion_lengths: _containers.RepeatedScalarFieldContainer[int]
    policy_logprobs: bytes
    prior_logprobs: bytes
    def __init__(self, completion_lengths: _Optional[_Iterable[int]] = ..., policy_logprobs: _Optional[bytes] = ..., prior_logprobs: _Optional[bytes] = ...) -> None: ...

class EstimateKlResponse(_message.Message):
    __slots__ = ("k1", "k2", "k3")
    K1_FIELD_NUMBER: _ClassVar[int]
    K2_FIELD_NUMBER: _ClassVar[int]
    K3_FIELD_NUMBER: _ClassVar[int]
    k1: _containers.RepeatedScalarFieldContainer[float]
    k2: _containers.RepeatedScalarFieldContainer[float]
    k3: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, k1: _Optional[_Iterable[float]] = ..., k2: _Optional[_Iterable[float]] = ..., k3: _Optional[_Iterable[float]] = ...) -> None: ...

class EvaluateSamplesRequest(_message.Message):
    __slots__ = ("samples", "target", "proposal")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    samples: _samples_pb2.Samples
    target: _target_pb2.Target
    proposal: _target_pb2.Proposal
    def __init__(self, samples: _Optional[_Union[_samples_pb2.Samples, _Mapping]] = ..., target: _Optional[_Union[_target_pb2.Target, _Mapping]] = ..., proposal: _Optional[_Union[_target_pb2.Proposal, str]] = ...) -> None: ...

class EvaluateSamplesResponse(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: _report_pb2.Report
    def __init__(self, report: _Optional[_Union[_report_pb2.Report, _Mapping]] = ...) -> None: ...
