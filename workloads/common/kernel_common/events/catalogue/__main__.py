"""Writes the AsyncAPI document to standard output."""

import sys

import yaml

from kernel_common.events.catalogue.asyncapi import document

yaml.safe_dump(document(), sys.stdout, sort_keys=False, allow_unicode=True, width=120)
