#!/bin/sh
# pragma_once.sh CHECKOUT: every header has it; those that do not are printed.
! grep -rL --include='*.hpp' '^#pragma once$' "$1/include" | grep .
