"""String formats as regular expressions: what they match is valid, if not all that would be."""

from typing import Final

_YEAR: Final = "[1-9][0-9]{3}"
_LEAP: Final = "(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"
_DATE: Final = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_HOUR: Final = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME: Final = rf"{_HOUR}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-]{_HOUR})"
_LABEL: Final = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
_BYTE: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_GROUP: Final = "[0-9a-fA-F]{1,4}"
_URL_PART: Final = "[A-Za-z0-9._~!$&'()*+,;=:@-]"

FORMATS: Final = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "duration": (
        "^P(?:[0-9]{1,4}W|(?:[0-9]{1,4}Y[0-9]{1,4}M[0-9]{1,4}D|[0-9]{1,4}[YMD])(?:T[0-9]{1,4}[HMS])?"
        "|T(?:[0-9]{1,4}H[0-9]{1,4}M[0-9]{1,4}S|[0-9]{1,4}[HMS]))$"
    ),
    "uuid": "^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$",
    "email": rf"^[A-Za-z0-9_+-]{{1,30}}(?:\.[A-Za-z0-9_+-]{{1,30}}){{0,3}}@{_LABEL}(?:\.{_LABEL}){{1,4}}$",
    "hostname": rf"^{_LABEL}(?:\.{_LABEL}){{0,5}}$",
    "ipv4": rf"^{_BYTE}(?:\.{_BYTE}){{3}}$",
    "ipv6": f"^{_GROUP}(?::{_GROUP}){{7}}$",
    "uri": rf"^[a-z][a-z0-9+-]{{1,15}}://{_LABEL}(?:\.{_LABEL}){{0,5}}(?::[1-9][0-9]{{0,3}})?(?:/{_URL_PART}*)*"
    rf"(?:\?{_URL_PART}*)?(?:#{_URL_PART}*)?$",
}
