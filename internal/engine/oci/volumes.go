package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/internal/engine"
)

const (
	// maxVolumes bounds the volumes of an image. Those that people make have a handful.
	maxVolumes = 100
	// maxWalk bounds the parts of a path of an image, those of the symbolic links on its way included.
	maxWalk = 255
)

// imageVolumes makes the volumes that an image declares (VOLUME in its Dockerfile), as Docker's anonymous ones: folders of this
// container alone, on the file system of the machine, filled with what the image has there. A step does without one at a
// place where none can be, and its log says so. Those inside of a mount of the plan, or of another volume, are not made.
// The mounts go before those of the plan.
func imageVolumes(ctx context.Context, paths stepPaths, declared map[string]struct{}, planned []specs.Mount, step engine.Step) ([]specs.Mount, error) {
	if len(declared) == 0 {
		return nil, nil
	}
	if len(declared) > maxVolumes {
		return nil, fmt.Errorf("the image %s has %d volumes; at most %d are possible", step.Exec.Image, len(declared), maxVolumes)
	}
	if err := os.Mkdir(paths.volumes(), 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(paths.rootfs())
	if err != nil {
		return nil, err
	}
	defer root.Close()
	dir, err := os.OpenRoot(paths.volumes())
	if err != nil {
		return nil, err
	}
	defer dir.Close()

	places := volumePlaces(root, declared, func(place string, err error) {
		if step.Progress != nil {
			fmt.Fprintf(step.Progress, "the image's volume %.200q is left out: %v\n", place, err)
		}
	})
	var taken []string
	for _, m := range planned {
		place, err := resolve(root, m.Destination)
		if err != nil {
			place = m.Destination // runc will say what is wrong with it
		}
		taken = append(taken, place)
	}
	var mounts []specs.Mount
	copied := copier{ctx: ctx, from: root, to: dir, links: map[inode]string{}}
	for _, place := range places {
		if slices.ContainsFunc(taken, func(outer string) bool { return within(place, outer) }) {
			continue
		}
		taken = append(taken, place)
		name := strconv.Itoa(len(mounts))
		if err := copied.copy(local(place), name); err != nil {
			return nil, fmt.Errorf("fill the volume %s of the image %s: %w", place, step.Exec.Image, err)
		}
		mounts = append(mounts, bind(filepath.Join(paths.volumes(), name), place, "rw"))
	}
	return mounts, nil
}

// volumePlaces returns where an image's volumes are in its root filesystem, without symbolic links, outer ones first. There
// is a folder at each. Places where no volume can be are given to leaveOut.
func volumePlaces(root *os.Root, declared map[string]struct{}, leaveOut func(place string, err error)) []string {
	var places []string
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		place, err := resolve(root, name)
		switch {
		case err != nil:
		case place == "/" || reserved(place) || within(place, "/dev"):
			err = errors.New("nothing can be mounted there")
		default:
			err = root.MkdirAll(local(place), 0o755)
		}
		if err != nil {
			leaveOut(name, err)
			continue
		}
		places = append(places, place)
	}
	slices.SortStableFunc(places, func(a, b string) int { return strings.Count(a, "/") - strings.Count(b, "/") })
	return places
}

// resolve returns the absolute path in a root filesystem that name leads to, as its containers see it: links that are
// absolute begin at the root, and nothing is above it. What is not there is no link. Nobody may change the filesystem meanwhile.
func resolve(root *os.Root, name string) (string, error) {
	at, rest := "/", name
	if len(name) > unix.PathMax {
		return "", errors.New("its path is too long")
	}
	for range maxWalk {
		if rest == "" {
			return at, nil
		}
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		if part == "" || part == "." || part == ".." {
			at = path.Join(at, part)
			continue
		}
		next := path.Join(at, part)
		info, err := root.Lstat(local(next))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			at = next
			continue
		case err != nil:
			return "", err
		case info.Mode()&fs.ModeSymlink == 0:
			at = next
			continue
		}
		target, err := root.Readlink(local(next))
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			at = "/"
		}
		rest = target + "/" + rest
	}
	return "", errors.New("its path has too many parts, or leads in a circle")
}

// local turns an absolute path that is clean into one for an [os.Root].
func local(place string) string { return filepath.FromSlash("." + place) }

// within reports whether place is outer or inside of it; both are clean.
func within(place, outer string) bool {
	return place == outer || strings.HasPrefix(place, strings.TrimSuffix(outer, "/")+"/")
}

// inode tells files apart, whatever their names.
type inode struct{ device, number uint64 }

// copier copies folders of a root filesystem with all that they have, as `cp -a` does. It leaves neither of its roots. A file
// that is there by several names is copied once and linked, also between the copies of several folders: so they take no more
// room than the image.
type copier struct {
	ctx      context.Context
	from, to *os.Root
	links    map[inode]string
}

// copy makes target, which is not there, from source.
func (c *copier) copy(source, target string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	info, err := c.from.Lstat(source)
	if err != nil {
		return err
	}
	stat := info.Sys().(*syscall.Stat_t) // it is, on Linux
	switch info.Mode().Type() {
	case fs.ModeDir:
		err = c.copyDir(source, target)
	case 0:
		id := inode{stat.Dev, stat.Ino}
		if earlier, ok := c.links[id]; ok {
			return c.to.Link(earlier, target)
		}
		if stat.Nlink > 1 {
			c.links[id] = target
		}
		err = c.copyFile(source, target)
	case fs.ModeSymlink:
		var to string
		if to, err = c.from.Readlink(source); err == nil {
			err = c.to.Symlink(to, target)
		}
	default:
		err = c.in(target, func(dir int, name string) error { return unix.Mknodat(dir, name, stat.Mode, int(stat.Rdev)) })
	}
	if err != nil {
		return err
	}
	// In this order: a change of the owner takes the bits setuid and setgid away, and capabilities.
	if err := c.to.Lchown(target, int(stat.Uid), int(stat.Gid)); err != nil {
		return err
	}
	if info.IsDir() || info.Mode().IsRegular() {
		if err := c.copyXattrs(source, target); err != nil {
			return err
		}
	}
	return c.in(target, func(dir int, name string) error {
		if info.Mode()&fs.ModeSymlink == 0 {
			if err := unix.Fchmodat(dir, name, stat.Mode&0o7777, 0); err != nil {
				return err
			}
		}
		return unix.UtimesNanoAt(dir, name, []unix.Timespec{unix.Timespec(stat.Atim), unix.Timespec(stat.Mtim)}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

func (c *copier) copyDir(source, target string) error {
	if err := c.to.Mkdir(target, 0o700); err != nil {
		return err
	}
	dir, err := c.from.Open(source)
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err := errors.Join(err, dir.Close()); err != nil {
		return err
	}
	for _, name := range names {
		if err := c.copy(filepath.Join(source, name), filepath.Join(target, name)); err != nil {
			return err
		}
	}
	return nil
}

// copyChunk is how much of a file is copied before it is asked whether somebody still wants it.
const copyChunk = 64 << 20

func (c *copier) copyFile(source, target string) error {
	in, err := c.from.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := c.to.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for err == nil {
		if err = c.ctx.Err(); err == nil {
			_, err = io.CopyN(out, in, copyChunk)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, out.Close())
}

// copyXattrs copies the extended attributes of a file or folder. Those that the target's file system does not have are left out.
func (c *copier) copyXattrs(source, target string) error {
	in, err := c.from.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	size, err := unix.Flistxattr(int(in.Fd()), nil)
	if size == 0 || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return err
	}
	list := make([]byte, size)
	if size, err = unix.Flistxattr(int(in.Fd()), list); err != nil {
		return err
	}
	out, err := c.to.Open(target)
	if err != nil {
		return err
	}
	defer out.Close()
	value := make([]byte, 64<<10) // the kernel's limit, XATTR_SIZE_MAX
	for _, name := range strings.Split(strings.TrimSuffix(string(list[:size]), "\x00"), "\x00") {
		if name == "security.selinux" { // is the host's, by the place
			continue
		}
		n, err := unix.Fgetxattr(int(in.Fd()), name, value)
		if err != nil {
			return fmt.Errorf("read the attribute %q of %s: %w", name, source, err)
		}
		if err := unix.Fsetxattr(int(out.Fd()), name, value[:n], 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("write the attribute %q of %s: %w", name, source, err)
		}
	}
	return nil
}

// in calls do with the folder that a target is in, and its name there: an [os.Root] has no words for some calls.
func (c *copier) in(target string, do func(dir int, name string) error) error {
	dir, err := c.to.Open(filepath.Dir(target))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := do(int(dir.Fd()), filepath.Base(target)); err != nil {
		return fmt.Errorf("copy to %s: %w", target, err)
	}
	return nil
}
