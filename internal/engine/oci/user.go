package oci

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"slipway/internal/engine"
	"slipway/internal/shim"
)

// defaultPath is the PATH of a container whose image does not set it, as on Docker.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// commandOf merges what a step says with what its image says, by Docker's rules.
func commandOf(step engine.Step, image ocispec.ImageConfig, rootfs string) (shim.Command, error) {
	x := step.Exec
	args := slices.Concat(x.Entrypoint, x.Args)
	if len(x.Entrypoint) == 0 {
		rest := x.Args
		if len(rest) == 0 {
			rest = image.Cmd
		}
		args = slices.Concat(image.Entrypoint, rest)
	}
	if len(args) == 0 {
		return shim.Command{}, fmt.Errorf("the image %s has no command of its own, and the step names none", x.Image)
	}
	user, home, err := findUser(rootfs, firstOf(x.User, image.User))
	if err != nil {
		return shim.Command{}, fmt.Errorf("image %s: %w", x.Image, err)
	}
	env := map[string]string{"PATH": defaultPath, "HOME": home, "HOSTNAME": hostname(step.Name)}
	for _, entry := range image.Env {
		if name, value, ok := strings.Cut(entry, "="); ok && name != "" {
			env[name] = value
		}
	}
	maps.Copy(env, step.Env)
	command := shim.Command{Args: args, Dir: firstOf(x.WorkingDir, image.WorkingDir, "/"), Script: x.Script, User: user}
	if !strings.HasPrefix(command.Dir, "/") {
		command.Dir = "/" + command.Dir
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		command.Env = append(command.Env, name+"="+env[name])
	}
	return command, nil
}

func firstOf(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// findUser resolves user[:group] in a root filesystem, and finds the user's home. Names must be in the image, numbers need
// not. A user without a group has the group of its entry, else 0, and the supplementary groups that list it.
func findUser(rootfs, spec string) (_ *shim.User, home string, err error) {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return nil, "", err
	}
	defer root.Close()
	name, group, hasGroup := strings.Cut(firstOf(spec, "0"), ":")
	user := &shim.User{}
	number, isNumber := parseID(name)
	user.UID, home = number, "/"
	found := false
	// name:password:uid:gid:comment:home:shell
	err = eachLine(root, "etc/passwd", func(f []string) bool {
		if len(f) < 6 {
			return true
		}
		uid, ok := parseID(f[2])
		gid, ok2 := parseID(f[3])
		if !ok || !ok2 || f[0] != name && !(isNumber && uid == number) {
			return true
		}
		found = true
		name, user.UID, user.GID, home = f[0], uid, gid, firstOf(f[5], "/")
		return false
	})
	if err != nil {
		return nil, "", err
	}
	if !found && !isNumber {
		return nil, "", fmt.Errorf("there is no user %q in its /etc/passwd", name)
	}
	if !found && user.UID == 0 {
		home = "/root"
	}
	gid, groupIsNumber := parseID(group)
	if hasGroup && groupIsNumber {
		user.GID = gid
		return user, home, nil
	}
	groupFound := false
	// name:password:gid:members
	err = eachLine(root, "etc/group", func(f []string) bool {
		if len(f) < 4 {
			return true
		}
		gid, ok := parseID(f[2])
		switch {
		case !ok:
		case hasGroup && f[0] == group:
			groupFound, user.GID = true, gid
			return false
		case !hasGroup && found && slices.Contains(strings.Split(f[3], ","), name):
			user.Groups = append(user.Groups, gid)
		}
		return len(user.Groups) < 1000
	})
	if err == nil && hasGroup && !groupFound {
		err = fmt.Errorf("there is no group %q in its /etc/group", group)
	}
	return user, home, err
}

// parseID reads a user or group number, which must not be the one that stands for none.
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}

// eachLine gives the fields of each line of a file of an image to do, until that returns false. A file that is not there,
// or that leads out of the image, is empty.
func eachLine(root *os.Root, path string, do func(fields []string) bool) error {
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return err
	}
	lines := bufio.NewScanner(io.LimitReader(f, 4<<20))
	for lines.Scan() {
		if !do(strings.Split(lines.Text(), ":")) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read its /%s: %w", path, err)
	}
	return nil
}
