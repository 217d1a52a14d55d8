"""Modules as they come, change and go."""

from typing import Literal

from pydantic import Field

from kernel_common.events.catalogue.payload import Payload, Text


class ModuleSeen(Payload):
    """A module, as it is now."""

    module_id: Text = Field(description="The module's slug")
    module_name: Text = Field(description="Such as @acme/crm")
    version: Text


class ModuleUpdated(ModuleSeen):
    """Another version serves."""

    previous_version: Text


class ModuleFailed(ModuleSeen):
    """An installation or an update ended without success."""

    step: Text
    reason: Text


class ModuleRemoved(ModuleSeen):
    """The module is gone."""

    data: Literal["kept", "dropped"]
