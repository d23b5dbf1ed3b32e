"""What this machine is. Each probe runs or opens one thing and hands what it said to a pure parser."""
