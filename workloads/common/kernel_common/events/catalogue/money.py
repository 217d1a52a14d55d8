"""Wallets. Amounts are whole minor units of the currency."""

from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, Field, StringConstraints

from kernel_common.events.catalogue.payload import Payload

Amount = Annotated[int, Field(strict=True, gt=0)]
Balance = Annotated[int, Field(strict=True, ge=0)]
Currency = Annotated[str, StringConstraints(pattern="^[A-Z]{3}$")]


class Balances(Payload):
    available: Balance
    pending: Balance
    frozen: Balance


class _Transaction(Payload):
    transaction_id: UUID
    wallet_id: UUID
    user_id: UUID = Field(description="Whose wallet it is")
    amount: Amount
    currency: Currency


class WalletMoved(_Transaction):
    """Money came into a wallet, or left it."""

    balance_after: Balances


class HoldCreated(_Transaction):
    """Money is held back."""

    balance_after: Balances
    expires_at: AwareDatetime


class HoldEnded(_Transaction):
    """Held money was taken, or given back."""

    balance_after: Balances


class HoldExpired(_Transaction):
    """Nobody confirmed in time: held money was given back."""

    expired_at: AwareDatetime


class TransferCompleted(_Transaction):
    """Money went from the wallet to another."""

    to_wallet_id: UUID
    balance_after: Balances


class TransactionReversed(_Transaction):
    """``transactionId`` undoes ``referenceTransactionId``."""

    reference_transaction_id: UUID
    balance_after: Balances
