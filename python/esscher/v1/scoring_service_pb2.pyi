from esscher.v1 import report_pb2 as _report_pb2
from esscher.v1 import samples_pb2 as _samples_pb2
from esscher.v1 import target_pb2 as _target_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "model_name", "vocabulary_size", "end_token_ids", "max_tokens", "max_message_bytes", "max_batch_tokens")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    END_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    version: str
    model_name: str
    vocabulary_size: int
    end_token_ids: _containers.RepeatedScalarFieldContainer[int]
    max_tokens: int
    max_message_bytes: int
    max_batch_tokens: int
    def __init__(self, version: _Optional[str] = ..., model_name: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., end_token_ids: _Optional[_Iterable[int]] = ..., max_tokens: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_batch_tokens: _Optional[int] = ...) -> None: ...

class ScoreSamplesRequest(_message.Message):
    __slots__ = ("samples",)
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    samples: _samples_pb2.Samples
    def __init__(self, samples: _Optional[_Union[_samples_pb2.Samples, _Mapping]] = ...) -> None: ...

class ScoreSamplesResponse(_message.Message):
    __slots__ = ("prior_logprobs", "model_name", "queue_seconds", "model_seconds")
    PRIOR_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODEL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    prior_logprobs: bytes
    model_name: str
    queue_seconds: float
    model_seconds: float
    def __init__(self, prior_logprobs: _Optional[bytes] = ..., model_name: _Optional[str] = ..., queue_seconds: _Optional[float] = ..., model_seconds: _Optional[float] = ...) -> None: ...

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
