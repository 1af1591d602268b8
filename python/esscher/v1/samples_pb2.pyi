from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Samples(_message.Message):
    __slots__ = ("prompt_token_ids", "prompt_lengths", "group_sizes", "completion_token_ids", "completion_lengths", "policy_logprobs", "prior_logprobs", "rewards", "terminated", "token_kl", "policy_entropy")
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    GROUP_SIZES_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    POLICY_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PRIOR_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_KL_FIELD_NUMBER: _ClassVar[int]
    POLICY_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    prompt_token_ids: bytes
    prompt_lengths: _containers.RepeatedScalarFieldContainer[int]
    group_sizes: _containers.RepeatedScalarFieldContainer[int]
    completion_token_ids: bytes
    completion_lengths: _containers.RepeatedScalarFieldContainer[int]
    policy_logprobs: bytes
    prior_logprobs: bytes
    rewards: _containers.RepeatedScalarFieldContainer[float]
    terminated: _containers.RepeatedScalarFieldContainer[bool]
    token_kl: bytes
    policy_entropy: bytes
    def __init__(self, prompt_token_ids: _Optional[bytes] = ..., prompt_lengths: _Optional[_Iterable[int]] = ..., group_sizes: _Optional[_Iterable[int]] = ..., completion_token_ids: _Optional[bytes] = ..., completion_lengths: _Optional[_Iterable[int]] = ..., policy_logprobs: _Optional[bytes] = ..., prior_logprobs: _Optional[bytes] = ..., rewards: _Optional[_Iterable[float]] = ..., terminated: _Optional[_Iterable[bool]] = ..., token_kl: _Optional[bytes] = ..., policy_entropy: _Optional[bytes] = ...) -> None: ...
