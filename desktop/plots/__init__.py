"""The instruments at the right: series kept from events, figures on cards, and live plots."""
