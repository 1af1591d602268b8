from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Tokens(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOKENS_UNSPECIFIED: _ClassVar[Tokens]
    TOKENS_RETOKENISED: _ClassVar[Tokens]
    TOKENS_WORDS: _ClassVar[Tokens]
TOKENS_UNSPECIFIED: Tokens
TOKENS_RETOKENISED: Tokens
TOKENS_WORDS: Tokens

class Samples(_message.Message):
    __slots__ = ("prompt_token_ids", "prompt_lengths", "group_sizes", "completion_token_ids", "completion_lengths", "policy_logprobs", "prior_logprobs", "rewards", "terminated", "token_kl", "policy_entropy", "action_mask", "tokens", "cross_log_probs", "cross_lengths")
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
    ACTION_MASK_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    CROSS_LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    CROSS_LENGTHS_FIELD_NUMBER: _ClassVar[int]
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
    action_mask: bytes
    tokens: Tokens
    cross_log_probs: bytes
    cross_lengths: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, prompt_token_ids: _Optional[bytes] = ..., prompt_lengths: _Optional[_Iterable[int]] = ..., group_sizes: _Optional[_Iterable[int]] = ..., completion_token_ids: _Optional[bytes] = ..., completion_lengths: _Optional[_Iterable[int]] = ..., policy_logprobs: _Optional[bytes] = ..., prior_logprobs: _Optional[bytes] = ..., rewards: _Optional[_Iterable[float]] = ..., terminated: _Optional[_Iterable[bool]] = ..., token_kl: _Optional[bytes] = ..., policy_entropy: _Optional[bytes] = ..., action_mask: _Optional[bytes] = ..., tokens: _Optional[_Union[Tokens, str]] = ..., cross_log_probs: _Optional[bytes] = ..., cross_lengths: _Optional[_Iterable[int]] = ...) -> None: ...
