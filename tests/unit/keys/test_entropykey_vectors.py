# SPDX-License-Identifier: LGPL-2.1-or-later
"""Known answers for every derivation of the Entropy Key.

V3 was captured from a real key, and printed in README.protocol of ekeyd 1.1.5;
the others were computed with ekeyd's own C units and an independent
implementation, and agree.
"""

import base64
import struct

import pytest

from virtrng.keys.entropykey import pairing, skein
from virtrng.keys.entropykey.frames import Frame, FrameReader, FrameType, decode_sub_code, encode_sub_code
from virtrng.keys.entropykey.session import (
    ZERO_KEY,
    Personalisation,
    Session,
    rekey_command,
    session_key,
)

SERIAL = base64.b64decode("NwBvBlg3OTBJORFD")
MASTER_KEY = bytes(range(32))
LONG_TERM_KEY = bytes.fromhex("0b5941a541f7e976311d1e10570f1bd9357e6da48c2c8ad7e8945b329820e978")
DEVICE_ENTROPY = bytes(range(0x80, 0xA0))
SESSION_KEY = bytes.fromhex("ba049d1f1926aa9f2f0bc51a6bf124b015393f6067ea810fac3ddb5b6835597c")


def words(data: bytes) -> skein.Words:
    found: skein.Words = struct.unpack("<4Q", data)
    return found


def packed(chain: skein.Words) -> str:
    return struct.pack("<4Q", *chain).hex()


def parsed(line: str) -> Frame:
    assert len(line) == 62
    (frame,) = FrameReader().feed(line.encode() + b"\r\n")
    assert frame is not None
    return frame


def test_v1_skein_without_a_key() -> None:
    chain = skein.ubi(skein.ZERO_CHAIN, skein.CONFIGURATION, skein.BlockType.CONFIGURATION)
    assert (
        skein.Prepared(chain).final(b"\xff").hex()
        == "a47be71a185ba0af820b3ce845a3d35a80ec64f96a0d6a36e3f5363624d8a091"
    )


@pytest.mark.parametrize(
    ("key", "tweak", "block", "cipher"),
    [
        (
            bytes(range(32)),
            bytes(range(16)),
            bytes(range(32, 64)),
            "1458643b6b014945cd30734309a4403c6a94fd2a7046a8c47ff081dd0a74214a",
        ),
        (bytes(32), bytes(16), bytes(32), "e39756f9f3b6cf3ff91d2bc3d324ce618574ea1623b2367f88382e2a93afa858"),
    ],
)
def test_v1_threefish(key: bytes, tweak: bytes, block: bytes, cipher: str) -> None:
    t0, t1 = struct.unpack("<2Q", tweak)
    assert packed(skein.threefish_256(words(key), (t0, t1), words(block))) == cipher


def test_v2_chain_after_key_and_configuration() -> None:
    chain = skein.ubi(skein.ZERO_CHAIN, SERIAL + MASTER_KEY, skein.BlockType.KEY)
    chain = skein.ubi(chain, skein.CONFIGURATION, skein.BlockType.CONFIGURATION)
    assert packed(chain) == "217d4b46461bfae78e4f11eba678bb4d6768382c8a3a2d3959555e93848867c2"


AUTHENTICATION_STATES = (
    "cb3f5741d35eac121db7caae885612f4474822a936a9728237bef0a9ca832caa",
    "c81a7bb78ab9ccc51c229c4e6c9a64d159c464ee7a67db24ddef940299671ac6",
    "cf008bf626d934fe018a86765d71c37e5d6f744e624739bf384b712b04fac1d6",
)
V2 = {
    Personalisation.REKEYING: (
        "03df3e2edefbf572477ada30db69d4fb9f0724126939666c9ce131c6812a300c",
        "ddea399bfe70eed5c0ff8c273ea2f681abde8c955e49210cb564b708f15330c6",
        "b1f9a07e8bd19d93c2b4dd0c375e0209f77a8bdc4fd292942b79fa64ddac8cd5",
    ),
    Personalisation.AUTHENTICATION: AUTHENTICATION_STATES,
    Personalisation.LONG_TERM_AUTHENTICATION: AUTHENTICATION_STATES,
    Personalisation.ENCRYPTION: (
        "1280ad53f050b036458f638cbf00d2f400287b03e09cb863e2145f9b03825896",
        "e9ed004e511bf61d63fab2242bd6a85be9c6bbe1d474ef03b475c734a64848d1",
        "c7c7ed3d851f87df1f41e92b2d6e03aaf05b8d53e8fd538bae81c81107c93054",
    ),
    Personalisation.LONG_TERM_REKEYING: (
        "7a59f98c3b68d8def079279d2e4d6dc449ba4c877084c746ad3600fe4c195771",
        "a7fcbcc180d3ead048efe98193f31aed8f9bb6df2d011cabd43d39b2af1bf248",
        "9eca1edfff0af2ab0b1222faa53a125d6535e4694bcb54d1b565fa38b2898ded",
    ),
}


@pytest.mark.parametrize("personalisation", list(Personalisation))
def test_v2_prepared_states(personalisation: Personalisation) -> None:
    prepared = skein.prepare(SERIAL, MASTER_KEY, personalisation.value)
    midstate, final, final_pad = V2[personalisation]
    assert packed(prepared.chain) == midstate
    assert prepared.final(b"abc").hex() == final
    assert prepared.final_pad(b"abc").hex() == final_pad


V3 = (
    "* S!AANwBvBlg3OTBJORFD                                Al/Smw1b",
    "* k>Unable to send entropy. Please re-key session.    VqrrSb4k",
    "* I>T03143 V03254                                     apKTNVoy",
    "* I>T03150 V03254                                     6ihYwAqo",
    "* I>F07342:00000:00000:00000:00000                    1L9eG/G8",
    "* I>S08052:23751:23792:23584:07112:20876:08063:24150:0Sr3rR9o3",
    "* K!AA6XxLwelzehWDH8ofVA7moL76KiQj0ruKmqs9T7ygW/Q=    Qkbxfpr4",
    "* M>Long-term rekey unlocked                          vrHSYIoF",
    "* l>Long-term rekey locked-out                        m/wvdw2F",
    "* l>Nonce MAC does not match                          6l+FxwYn",
    "* W>Unknown Input Character 0x65                      TRNC7UwS",
)


@pytest.mark.parametrize("line", V3)
def test_v3_frames_of_a_real_key(line: str) -> None:
    frame = parsed(line)
    session = Session(SERIAL, ZERO_KEY)
    assert frame.type is not FrameType.UNKNOWN
    assert session.verifies(frame)
    assert session.frame(frame.covered) == line.encode() + b"\r\n"


V4_NONCE = bytes(range(0xA0, 0xAC))


def test_v4_nonce_mac() -> None:
    prepared = skein.prepare(SERIAL, MASTER_KEY, Personalisation.LONG_TERM_AUTHENTICATION.value)
    full = "4dad9597752efa630190d66e16fb6c6b302c63b00d251cdbadcce61cb454999a"
    assert prepared.final_pad(V4_NONCE).hex() == full
    assert base64.b64encode(pairing.nonce_mac(SERIAL, MASTER_KEY, V4_NONCE)) == b"Ta2VVJma"


def test_v4_long_term_key() -> None:
    unlocked = parsed("* M>Long-term rekey unlocked                          vrHSYIoF")
    answer = parsed("* L!MAQEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=    CnUSZ4vh")
    assert all(Session(SERIAL, ZERO_KEY).verifies(frame) for frame in (unlocked, answer))
    assert answer.sub_code == len(V4_NONCE)
    assert answer.binary == bytes(range(0x40, 0x60))
    assert pairing.long_term_key(SERIAL, MASTER_KEY, V4_NONCE, answer.binary) == LONG_TERM_KEY
    assert base64.b64encode(LONG_TERM_KEY) == b"C1lBpUH36XYxHR4QVw8b2TV+baSMLIrX6JRbMpgg6Xg="


def test_v5_session_key() -> None:
    nonce = bytes.fromhex("00000000b0b1b2b3b4b5b6b7")
    assert rekey_command(nonce) == b"KAAAAALCxsrO0tba3."
    answer = parsed("* K!MAgIGCg4SFhoeIiYqLjI2Oj5CRkpOUlZaXmJmam5ydnp8=    fTxxpu4w")
    assert Session(SERIAL, ZERO_KEY).verifies(answer)
    assert (answer.sub_code, answer.binary) == (12, DEVICE_ENTROPY)
    assert session_key(SERIAL, LONG_TERM_KEY, nonce, answer.binary) == SESSION_KEY


V6 = (
    (0, bytes(range(0xC0, 0xE0)), "* E!AA9sZ45SR9Snt8n05Lld0uA9+5H52r9xByHTSth8VUtzs=    Y/p9NVie"),
    (1, bytes(32), "* E!BA7o3aHpCLN+U7w/0fRKm8JTTk7LM7huTAmFR2ux4BKe0=    LymCGd1H"),
    (64, b"\xff" * 32, "* E!ABLJG2a3Epf0rmrp7vLpJM+pja+7KLLflqGJkym5hbs9I=    vCp88XTE"),
    (1556, bytes(range(32)), "* E!UY8LUxJ4yhFehWoRZvGCHyhgaNJSIHq+S3dU/uGDY/dlg=    BK6nyY1F"),
    (4095, bytes(range(0xE0, 0x100)), "* E!//SjAmLHTvm0Yjka73q1ue9q60sZ3rHgoVYyDQofQDenw=    q1I0IKy3"),
)


def test_v6_entropy_frames() -> None:
    host, device = Session(SERIAL, SESSION_KEY), Session(SERIAL, SESSION_KEY)
    for sequence, plain, line in V6:
        assert device.frame(device.encrypt(sequence, plain)) == line.encode() + b"\r\n"
        frame = parsed(line)
        assert host.verifies(frame)
        assert frame.sub_code == sequence
        assert host.decrypt(frame) == plain


def test_v6_pads() -> None:
    """With a plaintext of zero the cipher is the pad."""
    pads = {
        0: "3607ba26e0b88cbcb45684805910e0cc0f68cd4e7f22c6a5c5ed775c198969e4",
        1: "ee8dda1e908b37e53bc3fd1f44a9bc2534e4ecb33b86e4c0985476bb1e0129ed",
        64: "d36e49948ed680b519516110d16db3056725044d74d20695e766cd6467a44c2d",
        1556: "f0b4332488a413ef5ea81c64142cfc89169c373113bef2a06d56f4032a226847",
        4095: "aad1c4cf900a7da1cb78441c47b670195e45436e1febfce29bd92a5a08fe8483",
    }
    session = Session(SERIAL, SESSION_KEY)
    for sequence, pad in pads.items():
        covered = session.encrypt(sequence, bytes(32))
        assert base64.b64decode(covered[4:].rstrip()).hex() == pad


@pytest.mark.parametrize(
    "line",
    [
        "* I>T03150 V03254                                     CjwEVbjx",
        "* k>Unable to send entropy. Please re-key session.    XuT8vnvl",
    ],
)
def test_v6_text_frames(line: str) -> None:
    assert Session(SERIAL, SESSION_KEY).verifies(parsed(line))


def test_v7_second_rekey_is_under_the_first_session_key() -> None:
    nonce = bytes.fromhex("01000000b8b9babbbcbdbebf")
    assert rekey_command(nonce) == b"KAQAAALi5uru8vb6/."
    answer = parsed("* K!MAICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=    a4UgqA+0")
    assert Session(SERIAL, SESSION_KEY).verifies(answer)
    assert not Session(SERIAL, ZERO_KEY).verifies(answer)
    assert (
        session_key(SERIAL, LONG_TERM_KEY, nonce, answer.binary).hex()
        == "345451cd70480fa7e0e2637c7162e410e70b802aac309a05e2147e0e57667bea"
    )


@pytest.mark.parametrize(
    ("length", "sub_code", "key"),
    [
        (0, b"AA", "ab590c895e0a8763695d707eb530d0e2624da7ac4269e31adb0a032db59fdb82"),
        (1, b"BA", "ee2a7710ff603e4c7126720171899f329a707972cd9bd4386bd5983eb23cf723"),
        (31, b"fA", "605239f3dfd5fd2db7c9f56846b4f31eaac4d9c730e6f3c2da818fe2f7dedadb"),
        (32, b"gA", "cea7d719a90a8a18d6f3b6ebd30a9872555e82e9dcfc31e2e7e532adab4b902d"),
        (33, b"hA", "e78c02180f834dac7400f116bc2aa31b2239677ddf48c21d82b18d36745f21c8"),
        (64, b"AB", "b5a6212e2045e2b679fab30de1fa0984be12eed8a57c6e8a268d3850b0d465f8"),
        (4095, b"//", "2ed191148ae015efef56306a34214f4c923baef5f5db4006ab33135c0210d49c"),
    ],
)
def test_v8_nonce_lengths(length: int, sub_code: bytes, key: str) -> None:
    nonce = bytes(number % 256 for number in range(length))
    assert encode_sub_code(length) == sub_code
    assert decode_sub_code(sub_code) == length
    assert session_key(SERIAL, LONG_TERM_KEY, nonce, DEVICE_ENTROPY).hex() == key


@pytest.mark.parametrize(
    ("master", "crc"), [(MASTER_KEY, 0x50), (ZERO_KEY, 0xAF), (b"\xff" * 32, 0xFC), (b"123456789", 0xF7)]
)
def test_v9_check_byte(master: bytes, crc: int) -> None:
    assert pairing.crc8(master) == crc


CARD = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9Q"


@pytest.mark.parametrize(
    "card", [CARD, f" {CARD[:11]} {CARD[11:22]}\t{CARD[22:]}\n", base64.b64encode(MASTER_KEY).decode()]
)
def test_v9_card(card: str) -> None:
    assert pairing.master_key(card) == MASTER_KEY


@pytest.mark.parametrize(
    ("card", "words_"),
    [
        (CARD[:-1] + "R", "check byte"),
        ("B" + CARD[1:], "check byte"),
        (CARD[:-1], "not 44 characters long but 43"),
        (CARD + "A", "not 44 characters long but 45"),
        (base64.b64encode(MASTER_KEY).decode()[:-1], "not 44 characters"),
        (CARD[:42] + "==", "not 44 characters"),
        (CARD[:-4], "44 characters"),
        ("", "44 characters"),
        ("AAEC*wQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9Q", "character 5 of the master key is not base64"),
        ("é" + CARD[1:], "not base64"),
    ],
)
def test_v9_a_mistyped_card_is_refused_and_not_repeated(card: str, words_: str) -> None:
    with pytest.raises(ValueError, match=words_) as refused:
        pairing.master_key(card)
    assert not card or card[4:20] not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("value", "characters"), [(0, b"AA"), (1, b"BA"), (12, b"MA"), (63, b"/A"), (64, b"AB"), (65, b"BB")]
)
def test_sub_codes_have_the_low_six_bits_first(value: int, characters: bytes) -> None:
    assert encode_sub_code(value) == characters
    assert decode_sub_code(characters) == value
