# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which of the configuration's rules is a guest's. Imports no XML: the hook asks it at every start."""

from fnmatch import fnmatchcase

from virtrng.config import DomainSettings, Rule


def rule_for(name: str, uuid: str, os: str, settings: DomainSettings) -> Rule:
    """Return the first rule that matches, or one that says nothing; `os` is libosinfo's id, or ""."""
    return next((rule for rule in settings.rules if _matches(rule, name, uuid, os)), Rule())


def requirement(name: str, uuid: str, os: str, settings: DomainSettings) -> str:
    """Return off, warn or refuse: what the hook does for this guest. Its own wish has no say in it."""
    return rule_for(name, uuid, os, settings).require or settings.require


def is_named(rule: Rule, name: str, uuid: str) -> bool:
    """Whether `rule` means a guest of that name and UUID; one that names none means all."""
    return rule.match is None or fnmatchcase(name, rule.match) or rule.match.lower() == uuid.lower()


def _matches(rule: Rule, name: str, uuid: str, os: str) -> bool:
    return is_named(rule, name, uuid) and (rule.os is None or fnmatchcase(os, rule.os))
