package alert

import "golang.org/x/sys/windows"

// disk is what the volume of dir has left for this user, and its size, in bytes.
func disk(dir string) (free, size uint64, err error) {
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, 0, err
	}
	err = windows.GetDiskFreeSpaceEx(name, &free, &size, nil)
	return free, size, err
}
