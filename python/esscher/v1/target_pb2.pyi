from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Proposal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROPOSAL_UNSPECIFIED: _ClassVar[Proposal]
    PROPOSAL_POLICY: _ClassVar[Proposal]
    PROPOSAL_PRIOR: _ClassVar[Proposal]
PROPOSAL_UNSPECIFIED: Proposal
PROPOSAL_POLICY: Proposal
PROPOSAL_PRIOR: Proposal

class Target(_message.Message):
    __slots__ = ("tilt", "condition")
    TILT_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    tilt: Tilt
    condition: Condition
    def __init__(self, tilt: _Optional[_Union[Tilt, _Mapping]] = ..., condition: _Optional[_Union[Condition, _Mapping]] = ...) -> None: ...

class Tilt(_message.Message):
    __slots__ = ("beta",)
    BETA_FIELD_NUMBER: _ClassVar[int]
    beta: float
    def __init__(self, beta: _Optional[float] = ...) -> None: ...

class Condition(_message.Message):
    __slots__ = ("threshold",)
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    threshold: float
    def __init__(self, threshold: _Optional[float] = ...) -> None: ...
