"""The values that columns of the warehouse hold where they are fixed. Needs no library: the model server reads them, too."""

from __future__ import annotations

EVENT_TYPES = (
    "offer_received", "offer_viewed", "redemption", "reward_dismissed", "app_open", "email_sent", "email_open", "email_click",
    "push_sent", "push_click", "points_earned", "points_expired", "tier_change", "review", "referral", "unsubscribe",
)  # fmt: skip
REWARD_TYPES = ("discount", "bogo", "free_item", "points_bonus", "cashback", "experience", "upgrade", "informational")
TIERS = ("BRONZE", "SILVER", "GOLD", "PLATINUM")
PURCHASE_CHANNELS = ("store", "app", "web")
CHANNELS = ("email", "push", "sms", "app", "web", "store")
ISSUE_TYPES = ("product", "service", "delivery", "app", "billing", "other")
SENTIMENTS = ("POSITIVE", "NEUTRAL", "NEGATIVE")
RISK_LEVELS = ("LOW", "MEDIUM", "HIGH", "CRITICAL")
CLV_SEGMENTS = ("LOW", "MEDIUM", "HIGH", "VERY_HIGH")
COVERAGES = ("full", "sparse", "cold_start")
