"""The kernel's events: which there are, what each carries, where it goes, and the AsyncAPI document that says so.

python -m kernel_common.events.catalogue > docs/asyncapi.yaml
"""

from kernel_common.events.catalogue.check import UnfitEvent, check
from kernel_common.events.catalogue.domains import DOMAINS, Domain, key_field
from kernel_common.events.catalogue.types import CAPTURE, EVENTS, EventType, version_of

__all__ = ["CAPTURE", "DOMAINS", "EVENTS", "Domain", "EventType", "UnfitEvent", "check", "key_field", "version_of"]
