"""Work in units that survives kills: shares of it, a ledger of what is done, engines that do it."""
