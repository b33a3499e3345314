package drone

import (
	"fmt"
	"regexp"
	"strings"
)

// version is a semantic version, https://semver.org.
type version struct {
	major, minor, patch string // digits
	prerelease, build   string
}

var semverForm = regexp.MustCompile(`^(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?(?:\+([0-9A-Za-z.-]+))?$`)

// parseVersion reads what a tag names, with or without a v before it.
func parseVersion(tag string) (version, bool) {
	m := semverForm.FindStringSubmatch(strings.TrimPrefix(tag, "v"))
	if m == nil {
		return version{}, false
	}
	return version{m[1], m[2], m[3], m[4], m[5]}, true
}

func (v version) short() string { return v.major + "." + v.minor + "." + v.patch }

func (v version) String() string {
	s := v.short()
	if v.prerelease != "" {
		s += "-" + v.prerelease
	}
	if v.build != "" {
		s += "+" + v.build
	}
	return s
}

// semverVariables are what a tag gives to steps as DRONE_SEMVER_*.
func semverVariables(tag string) map[string]string {
	v, ok := parseVersion(tag)
	if !ok {
		return map[string]string{"DRONE_SEMVER_ERROR": fmt.Sprintf("%s is not in dotted-tri format", tag)}
	}
	return map[string]string{
		"DRONE_SEMVER":            v.String(),
		"DRONE_SEMVER_MAJOR":      v.major,
		"DRONE_SEMVER_MINOR":      v.minor,
		"DRONE_SEMVER_PATCH":      v.patch,
		"DRONE_SEMVER_PRERELEASE": v.prerelease,
		"DRONE_SEMVER_BUILD":      v.build,
		"DRONE_SEMVER_SHORT":      v.short(),
	}
}

// A version by the calendar begins with a year, https://calver.org.
var calverForm = regexp.MustCompile(`^(\d{4}|\d{2})\.(0?[1-9]|1[0-2])(?:\.(\d+))?(?:[-.]([0-9A-Za-z.-]+))?$`)

// calverVariables are what a tag gives to steps as DRONE_CALVER*, if it is a version by the calendar.
func calverVariables(tag string) map[string]string {
	m := calverForm.FindStringSubmatch(strings.TrimPrefix(tag, "v"))
	if m == nil {
		return nil
	}
	major, minor, micro, modifier := m[1], m[2], m[3], m[4]
	short := major + "." + minor
	if micro != "" {
		short += "." + micro
	}
	return map[string]string{
		"DRONE_CALVER":             strings.TrimPrefix(tag, "v"),
		"DRONE_CALVER_MAJOR":       major,
		"DRONE_CALVER_MINOR":       minor,
		"DRONE_CALVER_MICRO":       micro,
		"DRONE_CALVER_MODIFIER":    modifier,
		"DRONE_CALVER_MAJOR_MINOR": major + "." + minor,
		"DRONE_CALVER_SHORT":       short,
	}
}

// autoTags returns the tags that plugins/docker gives an image by itself: for a version all its shorter forms, for a
// push to the default branch "latest". The version 0 has no short form, as 0.1 and 0.2 promise each other nothing. ok
// is false for a tag that is no version.
func autoTags(tag, suffix string) (tags []string, ok bool) {
	tags = []string{"latest"}
	if tag != "" {
		v, ok := parseVersion(tag)
		switch {
		case !ok:
			return nil, false
		case v.prerelease != "" || v.build != "":
			// A plus sign is not allowed in a tag of an image.
			tags = []string{strings.ReplaceAll(v.String(), "+", "-")}
		case strings.Trim(v.major, "0") == "":
			tags = []string{v.major + "." + v.minor, v.short()}
		default:
			tags = []string{v.major, v.major + "." + v.minor, v.short()}
		}
	}
	if suffix != "" {
		for i, t := range tags {
			if tags[i] = suffix; t != "latest" {
				tags[i] = t + "-" + suffix
			}
		}
	}
	return tags, true
}
