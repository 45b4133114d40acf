"""The tiers beyond T0: attackers who know of the defence, who try again, who only ask."""
