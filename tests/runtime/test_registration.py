"""RegisterCustomOps with what is no onnxruntime, too old a one, or no options: a status where one can be made."""

from __future__ import annotations

import ctypes

import pytest

from bnncc.runtime import library_path

GetApi = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
CreateStatus = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
STATUS = 0x1234


class ApiBase(ctypes.Structure):
    """OrtApiBase."""

    _fields_ = (("get_api", GetApi), ("get_version_string", ctypes.c_void_p))


class Api(ctypes.Structure):
    """The beginning of OrtApi."""

    _fields_ = (("create_status", CreateStatus),)


@pytest.fixture
def register():
    function = ctypes.CDLL(library_path()).RegisterCustomOps
    function.restype = ctypes.c_void_p
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    return function


def test_no_api_is_said(register, capfd):
    """There is nothing to make a status with, and NULL means success: so stderr has to do."""
    none = ApiBase(GetApi(lambda version: None), None)
    for base in (None, ctypes.byref(none)):
        assert register(None, base) is None
        assert "no op was registered" in capfd.readouterr().err


@pytest.mark.parametrize(("newest", "text"), [(1, b"needs onnxruntime 1.18"), (99, b"session options are NULL")])
def test_what_cannot_be_registered_gives_a_status(register, newest, text):
    said = []

    def create_status(code: int, message: bytes) -> int:
        said.append(message)
        return STATUS

    api = Api(CreateStatus(create_status))
    base = ApiBase(GetApi(lambda version: ctypes.addressof(api) if version <= newest else None), None)
    assert register(None, ctypes.byref(base)) == STATUS
    assert text in said[0]
