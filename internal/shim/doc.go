// Package shim is the file protocol between a runner and the process that it starts in each step's container.
//
// The shim is a small static program, cmd/slipway-shim, that starts as the first process of the container. It and the
// runner share one folder and nothing else, so that a step outlives its runner: another one finds the folder, goes on
// reading where the first stopped, and gets the result. The files of the folder are
//
//	start  what to run, with all secrets: put there by the runner in one rename, read once and removed by the shim
//	lock   made by the shim before it looks for start, and locked (fcntl) as long as it lives, which also
//	       tells the runner its process id
//	log    standard output and error of the step, in the order in which they were written; only ever appended to
//	exit   how the step ended, put there by the shim in one rename, when log is whole and no process of the step is left
//
// Each state of a step can be told from them, see [Look]; a step whose lock is free and that has no exit was killed
// together with its shim. Nobody runs a step twice: lock and start are each taken once.
//
// # Who can do what
//
// The folder belongs to the shim's user (root in a container) and is closed to others. A step that runs as another user
// can neither read nor change it. A step that runs as root in its container can: it can change its own log and forge
// its own exit, which gains it nothing, as both are its own word anyway, and its processes are killed when exit is
// there. It cannot see the folder of another step. It finds no secrets there, as start is gone before the step begins,
// and it can neither trace the shim nor use its open files, as long as it lacks CAP_SYS_PTRACE (Docker's default). So the
// runner trusts nothing that it reads: no symbolic link is followed, no size is believed, and a file must be a file.
//
// Start reading at [Main] for the side of the container, and at [Start] and [Follow] for the side of the runner.
package shim
