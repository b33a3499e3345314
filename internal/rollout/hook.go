package rollout

import "slipway/internal/manifest"

const HookBefore, HookAfter = "before", "after"
func hookOf(o manifest.Object) string { return "" }
