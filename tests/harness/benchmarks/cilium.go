// The same loops by Go's cilium/ebpf. For each line "push 1000" or "pop 1000"
// on stdin that many calls are made on the map whose descriptor is the argument,
// and the nanoseconds of processor time that they took are printed.

package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func nanoseconds() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		panic(err)
	}
	return now.Nano()
}

func push(queue *ebpf.Map, calls int) {
	value := []byte("12345678")
	for i := 0; i < calls; i++ {
		if err := queue.Put(nil, value); err != nil {
			panic(err)
		}
	}
}

func pop(queue *ebpf.Map, calls int) {
	var value []byte
	for i := 0; i < calls; i++ {
		if err := queue.LookupAndDelete(nil, &value); err != nil {
			panic(err)
		}
	}
}

func main() {
	runtime.LockOSThread()
	fd, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	queue, err := ebpf.NewMapFromFD(fd)
	if err != nil {
		panic(err)
	}
	work := map[string]func(*ebpf.Map, int){"push": push, "pop": pop}
	var verb string
	var calls int
	for {
		if _, err := fmt.Fscan(os.Stdin, &verb, &calls); err != nil {
			return
		}
		start := nanoseconds()
		work[verb](queue, calls)
		fmt.Println(nanoseconds() - start)
	}
}
