/* The bpf(2) ABI, as one text: build_ffi.py gives it to cffi (which tells
 * Python what is here) and to the C compiler (which checks it). It needs no
 * kernel header, so the layout does not depend on the machine that builds it.
 *
 * Each field's comment says at which byte it stands and which Linux brought
 * it:   uint32_t map_flags;   / * 16  4.6 * /   The byte is not a remark:
 * build_ffi.py turns every one into a _Static_assert. The comment after a
 * struct's brace names the commands that read the struct. The kernel's text
 * has no tags (bpf_attr_batch) here; cffi can't place what has none.
 *
 * A pointer travels as a uint64_t, and every uint64_t is aligned to 8 bytes on
 * every architecture. The padding that takes is written out (`uint32_t :32`),
 * so that 32-bit compilers, which align to 4, agree.
 *
 * Source: include/uapi/linux/bpf.h. */

union bpf_attr {
    struct {                                /* BPF_MAP_CREATE */
        uint32_t map_type;                  /*  0  3.18 */
        uint32_t key_size;                  /*  4  3.18 */
        uint32_t value_size;                /*  8  3.18 */
        uint32_t max_entries;               /* 12  3.18 */
        uint32_t map_flags;                 /* 16  4.6 */
        uint32_t inner_map_fd;              /* 20  4.12 */
        uint32_t numa_node;                 /* 24  4.14 */
        char     map_name[16];              /* 28  4.15 */
        uint32_t map_ifindex;               /* 44  4.16 */
        uint32_t btf_fd;                    /* 48  4.18 */
        uint32_t btf_key_type_id;           /* 52  4.18 */
        uint32_t btf_value_type_id;         /* 56  4.18 */
        uint32_t btf_vmlinux_value_type_id; /* 60  5.6 */
        uint64_t map_extra;                 /* 64  5.16 */
        int32_t  value_type_btf_obj_fd;     /* 72  6.9 */
        int32_t  map_token_fd;              /* 76  6.9 */
        uint64_t excl_prog_hash;            /* 80  6.18 */
        uint32_t excl_prog_hash_size;       /* 88  6.18 */
        uint32_t :32;
    };

    struct {                                /* BPF_MAP_LOOKUP_ELEM BPF_MAP_UPDATE_ELEM BPF_MAP_DELETE_ELEM BPF_MAP_GET_NEXT_KEY BPF_MAP_LOOKUP_AND_DELETE_ELEM BPF_MAP_FREEZE */
        uint32_t map_fd;                    /*  0  3.18 */
        uint32_t :32;
        uint64_t key;                       /*  8  3.18 */
        union {
            uint64_t value;                 /* 16  3.18 */
            uint64_t next_key;              /* 16  3.18 */
        };
        uint64_t flags;                     /* 24  3.19 */
    };

    struct bpf_attr_batch {                 /* BPF_MAP_LOOKUP_BATCH BPF_MAP_LOOKUP_AND_DELETE_BATCH BPF_MAP_UPDATE_BATCH BPF_MAP_DELETE_BATCH */
        uint64_t in_batch;                  /*  0  5.6 */
        uint64_t out_batch;                 /*  8  5.6 */
        uint64_t keys;                      /* 16  5.6 */
        uint64_t values;                    /* 24  5.6 */
        uint32_t count;                     /* 32  5.6 */
        uint32_t map_fd;                    /* 36  5.6 */
        uint64_t elem_flags;                /* 40  5.6 */
        uint64_t flags;                     /* 48  5.6 */
    } batch;

    struct {                                /* BPF_PROG_LOAD */
        uint32_t prog_type;                 /*  0  3.18 */
        uint32_t insn_cnt;                  /*  4  3.18 */
        uint64_t insns;                     /*  8  3.18 */
        uint64_t license;                   /* 16  3.18 */
        uint32_t log_level;                 /* 24  3.18 */
        uint32_t log_size;                  /* 28  3.18 */
        uint64_t log_buf;                   /* 32  3.18 */
        uint32_t kern_version;              /* 40  4.1 */
        uint32_t prog_flags;                /* 44  4.12 */
        char     prog_name[16];             /* 48  4.15 */
        uint32_t prog_ifindex;              /* 64  4.15 */
        uint32_t expected_attach_type;      /* 68  4.17 */
        uint32_t prog_btf_fd;               /* 72  5.0 */
        uint32_t func_info_rec_size;        /* 76  5.0 */
        uint64_t func_info;                 /* 80  5.0 */
        uint32_t func_info_cnt;             /* 88  5.0 */
        uint32_t line_info_rec_size;        /* 92  5.0 */
        uint64_t line_info;                 /* 96  5.0 */
        uint32_t line_info_cnt;             /* 104  5.0 */
        uint32_t attach_btf_id;             /* 108  5.5 */
        union {
            uint32_t attach_prog_fd;        /* 112  5.5 */
            uint32_t attach_btf_obj_fd;     /* 112  5.11 */
        };
        uint32_t core_relo_cnt;             /* 116  5.17 */
        uint64_t fd_array;                  /* 120  5.14 */
        uint64_t core_relos;                /* 128  5.17 */
        uint32_t core_relo_rec_size;        /* 136  5.17 */
        uint32_t log_true_size;             /* 140  6.4 */
        int32_t  prog_token_fd;             /* 144  6.9 */
        uint32_t fd_array_cnt;              /* 148  6.14 */
        uint64_t signature;                 /* 152  6.18 */
        uint32_t signature_size;            /* 160  6.18 */
        int32_t  keyring_id;                /* 164  6.18 */
    };

    struct {                                /* BPF_OBJ_PIN BPF_OBJ_GET */
        uint64_t pathname;                  /*  0  4.4 */
        uint32_t bpf_fd;                    /*  8  4.4 */
        uint32_t file_flags;                /* 12  4.15 */
        int32_t  path_fd;                   /* 16  6.5 */
        uint32_t :32;
    };

    struct {                                /* BPF_PROG_ATTACH BPF_PROG_DETACH */
        union {
            uint32_t target_fd;             /*  0  4.10 */
            uint32_t target_ifindex;        /*  0  6.6 */
        };
        uint32_t attach_bpf_fd;             /*  4  4.10 */
        uint32_t attach_type;               /*  8  4.10 */
        uint32_t attach_flags;              /* 12  4.11 */
        uint32_t replace_bpf_fd;            /* 16  5.6 */
        union {
            uint32_t relative_fd;           /* 20  6.6 */
            uint32_t relative_id;           /* 20  6.6 */
        };
        uint64_t expected_revision;         /* 24  6.6 */
    };

    struct bpf_attr_test {                  /* BPF_PROG_TEST_RUN */
        uint32_t prog_fd;                   /*  0  4.12 */
        uint32_t retval;                    /*  4  4.12 */
        uint32_t data_size_in;              /*  8  4.12 */
        uint32_t data_size_out;             /* 12  4.12 */
        uint64_t data_in;                   /* 16  4.12 */
        uint64_t data_out;                  /* 24  4.12 */
        uint32_t repeat;                    /* 32  4.12 */
        uint32_t duration;                  /* 36  4.12 */
        uint32_t ctx_size_in;               /* 40  5.2 */
        uint32_t ctx_size_out;              /* 44  5.2 */
        uint64_t ctx_in;                    /* 48  5.2 */
        uint64_t ctx_out;                   /* 56  5.2 */
        uint32_t flags;                     /* 64  5.10 */
        uint32_t cpu;                       /* 68  5.10 */
        uint32_t batch_size;                /* 72  5.18 */
        uint32_t :32;
    } test;

    struct {                                /* BPF_PROG_GET_NEXT_ID BPF_MAP_GET_NEXT_ID BPF_BTF_GET_NEXT_ID BPF_LINK_GET_NEXT_ID BPF_PROG_GET_FD_BY_ID BPF_MAP_GET_FD_BY_ID BPF_BTF_GET_FD_BY_ID BPF_LINK_GET_FD_BY_ID */
        union {
            uint32_t start_id;              /*  0  4.13 */
            uint32_t prog_id;               /*  0  4.13 */
            uint32_t map_id;                /*  0  4.13 */
            uint32_t btf_id;                /*  0  4.18 */
            uint32_t link_id;               /*  0  5.8 */
        };
        uint32_t next_id;                   /*  4  4.13 */
        uint32_t open_flags;                /*  8  4.15 */
        int32_t  fd_by_id_token_fd;         /* 12  6.15 */
    };

    struct bpf_attr_info {                  /* BPF_OBJ_GET_INFO_BY_FD */
        uint32_t bpf_fd;                    /*  0  4.13 */
        uint32_t info_len;                  /*  4  4.13 */
        uint64_t info;                      /*  8  4.13 */
    } info;

    struct bpf_attr_query {                 /* BPF_PROG_QUERY */
        union {
            uint32_t target_fd;             /*  0  4.15 */
            uint32_t target_ifindex;        /*  0  6.6 */
        };
        uint32_t attach_type;               /*  4  4.15 */
        uint32_t query_flags;               /*  8  4.15 */
        uint32_t attach_flags;              /* 12  4.15 */
        uint64_t prog_ids;                  /* 16  4.15 */
        union {
            uint32_t prog_cnt;              /* 24  4.15 */
            uint32_t count;                 /* 24  6.6 */
        };
        uint32_t :32;
        uint64_t prog_attach_flags;         /* 32  6.0 */
        uint64_t link_ids;                  /* 40  6.6 */
        uint64_t link_attach_flags;         /* 48  6.6 */
        uint64_t revision;                  /* 56  6.6 */
    } query;

    struct bpf_attr_raw_tracepoint {        /* BPF_RAW_TRACEPOINT_OPEN */
        uint64_t name;                      /*  0  4.17 */
        uint32_t prog_fd;                   /*  8  4.17 */
        uint32_t :32;
        uint64_t cookie;                    /* 16  6.10 */
    } raw_tracepoint;

    struct {                                /* BPF_BTF_LOAD */
        uint64_t btf;                       /*  0  4.18 */
        uint64_t btf_log_buf;               /*  8  4.18 */
        uint32_t btf_size;                  /* 16  4.18 */
        uint32_t btf_log_size;              /* 20  4.18 */
        uint32_t btf_log_level;             /* 24  4.18 */
        uint32_t btf_log_true_size;         /* 28  6.4 */
        uint32_t btf_flags;                 /* 32  6.9 */
        int32_t  btf_token_fd;              /* 36  6.9 */
    };

    struct bpf_attr_task_fd_query {         /* BPF_TASK_FD_QUERY */
        uint32_t pid;                       /*  0  4.18 */
        uint32_t fd;                        /*  4  4.18 */
        uint32_t flags;                     /*  8  4.18 */
        uint32_t buf_len;                   /* 12  4.18 */
        uint64_t buf;                       /* 16  4.18 */
        uint32_t prog_id;                   /* 24  4.18 */
        uint32_t fd_type;                   /* 28  4.18 */
        uint64_t probe_offset;              /* 32  4.18 */
        uint64_t probe_addr;                /* 40  4.18 */
    } task_fd_query;

    struct bpf_attr_link_create {           /* BPF_LINK_CREATE */
        union {
            uint32_t prog_fd;               /*  0  5.7 */
            uint32_t map_fd;                /*  0  6.4 */
        };
        union {
            uint32_t target_fd;             /*  4  5.7 */
            uint32_t target_ifindex;        /*  4  5.9 */
        };
        uint32_t attach_type;               /*  8  5.7 */
        uint32_t flags;                     /* 12  5.7 */
        union {
            uint32_t target_btf_id;         /* 16  5.10 */
            struct {
                uint64_t iter_info;         /* 16  5.9 */
                uint32_t iter_info_len;     /* 24  5.9 */
                uint32_t :32;
            };
            struct bpf_attr_perf_event {
                uint64_t bpf_cookie;        /* 16  5.15 */
            } perf_event;
            struct bpf_attr_kprobe_multi {
                uint32_t flags;             /* 16  5.18 */
                uint32_t cnt;               /* 20  5.18 */
                uint64_t syms;              /* 24  5.18 */
                uint64_t addrs;             /* 32  5.18 */
                uint64_t cookies;           /* 40  5.18 */
            } kprobe_multi;
            struct bpf_attr_tracing {
                uint32_t target_btf_id;     /* 16  5.19 */
                uint32_t :32;
                uint64_t cookie;            /* 24  5.19 */
            } tracing;
            struct bpf_attr_netfilter {
                uint32_t pf;                /* 16  6.4 */
                uint32_t hooknum;           /* 20  6.4 */
                int32_t  priority;          /* 24  6.4 */
                uint32_t flags;             /* 28  6.4 */
            } netfilter;
            struct bpf_attr_tcx {
                union {
                    uint32_t relative_fd;   /* 16  6.6 */
                    uint32_t relative_id;   /* 16  6.6 */
                };
                uint32_t :32;
                uint64_t expected_revision; /* 24  6.6 */
            } tcx;
            struct bpf_attr_uprobe_multi {
                uint64_t path;              /* 16  6.6 */
                uint64_t offsets;           /* 24  6.6 */
                uint64_t ref_ctr_offsets;   /* 32  6.6 */
                uint64_t cookies;           /* 40  6.6 */
                uint32_t cnt;               /* 48  6.6 */
                uint32_t flags;             /* 52  6.6 */
                uint32_t pid;               /* 56  6.6 */
                uint32_t path_fd;           /* 60  7.2 */
            } uprobe_multi;
            struct bpf_attr_netkit {
                union {
                    uint32_t relative_fd;   /* 16  6.7 */
                    uint32_t relative_id;   /* 16  6.7 */
                };
                uint32_t :32;
                uint64_t expected_revision; /* 24  6.7 */
            } netkit;
            struct bpf_attr_cgroup {
                union {
                    uint32_t relative_fd;   /* 16  6.17 */
                    uint32_t relative_id;   /* 16  6.17 */
                };
                uint32_t :32;
                uint64_t expected_revision; /* 24  6.17 */
            } cgroup;
            struct bpf_attr_tracing_multi {
                uint64_t ids;               /* 16  7.2 */
                uint64_t cookies;           /* 24  7.2 */
                uint32_t cnt;               /* 32  7.2 */
                uint32_t :32;
            } tracing_multi;
        };
    } link_create;

    struct bpf_attr_link_update {           /* BPF_LINK_UPDATE */
        uint32_t link_fd;                   /*  0  5.7 */
        union {
            uint32_t new_prog_fd;           /*  4  5.7 */
            uint32_t new_map_fd;            /*  4  6.4 */
        };
        uint32_t flags;                     /*  8  5.7 */
        union {
            uint32_t old_prog_fd;           /* 12  5.7 */
            uint32_t old_map_fd;            /* 12  6.4 */
        };
    } link_update;

    struct bpf_attr_link_detach {           /* BPF_LINK_DETACH */
        uint32_t link_fd;                   /*  0  5.9 */
    } link_detach;

    struct bpf_attr_enable_stats {          /* BPF_ENABLE_STATS */
        uint32_t type;                      /*  0  5.8 */
    } enable_stats;

    struct bpf_attr_iter_create {           /* BPF_ITER_CREATE */
        uint32_t link_fd;                   /*  0  5.8 */
        uint32_t flags;                     /*  4  5.8 */
    } iter_create;

    struct bpf_attr_prog_bind_map {         /* BPF_PROG_BIND_MAP */
        uint32_t prog_fd;                   /*  0  5.10 */
        uint32_t map_fd;                    /*  4  5.10 */
        uint32_t flags;                     /*  8  5.10 */
    } prog_bind_map;

    struct bpf_attr_token_create {          /* BPF_TOKEN_CREATE */
        uint32_t flags;                     /*  0  6.9 */
        uint32_t bpffs_fd;                  /*  4  6.9 */
    } token_create;

    struct bpf_attr_prog_stream_read {      /* BPF_PROG_STREAM_READ_BY_FD */
        uint64_t stream_buf;                /*  0  6.17 */
        uint32_t stream_buf_len;            /*  8  6.17 */
        uint32_t stream_id;                 /* 12  6.17 */
        uint32_t prog_fd;                   /* 16  6.17 */
        uint32_t :32;
    } prog_stream_read;

    struct bpf_attr_prog_assoc_struct_ops { /* BPF_PROG_ASSOC_STRUCT_OPS */
        uint32_t map_fd;                    /*  0  7.0 */
        uint32_t prog_fd;                   /*  4  7.0 */
        uint32_t flags;                     /*  8  7.0 */
    } prog_assoc_struct_ops;
};

struct bpf_map_info {
    uint32_t type;                          /*  0  4.13 */
    uint32_t id;                            /*  4  4.13 */
    uint32_t key_size;                      /*  8  4.13 */
    uint32_t value_size;                    /* 12  4.13 */
    uint32_t max_entries;                   /* 16  4.13 */
    uint32_t map_flags;                     /* 20  4.13 */
    char     name[16];                      /* 24  4.15 */
    uint32_t ifindex;                       /* 40  4.16 */
    uint32_t btf_vmlinux_value_type_id;     /* 44  5.6 */
    uint64_t netns_dev;                     /* 48  4.16 */
    uint64_t netns_ino;                     /* 56  4.16 */
    uint32_t btf_id;                        /* 64  4.18 */
    uint32_t btf_key_type_id;               /* 68  4.18 */
    uint32_t btf_value_type_id;             /* 72  4.18 */
    uint32_t btf_vmlinux_id;                /* 76  6.9 */
    uint64_t map_extra;                     /* 80  5.16 */
    uint64_t hash;                          /* 88  6.18 */
    uint32_t hash_size;                     /* 96  6.18 */
    uint32_t :32;
};

struct bpf_btf_info {
    uint64_t btf;                           /*  0  4.18 */
    uint32_t btf_size;                      /*  8  4.18 */
    uint32_t id;                            /* 12  4.18 */
    uint64_t name;                          /* 16  5.11 */
    uint32_t name_len;                      /* 24  5.11 */
    uint32_t kernel_btf;                    /* 28  5.11 */
};

/* What BPF_OBJ_GET_INFO_BY_FD says of a link. The union has a struct for each
 * type of link; its names are addresses of buffers, which the kernel fills. */
struct bpf_link_info {
    uint32_t type;                          /*  0  5.8 */
    uint32_t id;                            /*  4  5.8 */
    uint32_t prog_id;                       /*  8  5.8 */
    uint32_t :32;
    union {
        struct bpf_link_info_raw_tracepoint {
            uint64_t tp_name;               /* 16  5.8 */
            uint32_t tp_name_len;           /* 24  5.8 */
            uint32_t :32;
            uint64_t cookie;                /* 32  6.17 */
        } raw_tracepoint;
        struct bpf_link_info_tracing {
            uint32_t attach_type;           /* 16  5.8 */
            uint32_t target_obj_id;         /* 20  5.13 */
            uint32_t target_btf_id;         /* 24  5.13 */
            uint32_t :32;
            uint64_t cookie;                /* 32  6.17 */
        } tracing;
        struct bpf_link_info_cgroup {
            uint64_t cgroup_id;             /* 16  5.8 */
            uint32_t attach_type;           /* 24  5.8 */
            uint32_t :32;
        } cgroup;
        struct bpf_link_info_iter {
            uint64_t target_name;           /* 16  5.9 */
            uint32_t target_name_len;       /* 24  5.9 */
            union {
                struct bpf_link_info_iter_map {
                    uint32_t map_id;        /* 28  5.9 */
                } map;
            };
            union {
                struct bpf_link_info_iter_cgroup {
                    uint64_t cgroup_id;     /* 32  6.1 */
                    uint32_t order;         /* 40  6.1 */
                    uint32_t :32;
                } cgroup;
                struct bpf_link_info_iter_task {
                    uint32_t tid;           /* 32  6.1 */
                    uint32_t pid;           /* 36  6.1 */
                } task;
            };
        } iter;
        struct bpf_link_info_netns {
            uint32_t netns_ino;             /* 16  5.8 */
            uint32_t attach_type;           /* 20  5.8 */
        } netns;
        struct bpf_link_info_xdp {
            uint32_t ifindex;               /* 16  5.9 */
        } xdp;
        struct bpf_link_info_struct_ops {
            uint32_t map_id;                /* 16  6.4 */
        } struct_ops;
        struct bpf_link_info_netfilter {
            uint32_t pf;                    /* 16  6.4 */
            uint32_t hooknum;               /* 20  6.4 */
            int32_t  priority;              /* 24  6.4 */
            uint32_t flags;                 /* 28  6.4 */
        } netfilter;
        struct bpf_link_info_kprobe_multi {
            uint64_t addrs;                 /* 16  6.6 */
            uint32_t count;                 /* 24  6.6 */
            uint32_t flags;                 /* 28  6.6 */
            uint64_t missed;                /* 32  6.7 */
            uint64_t cookies;               /* 40  6.9 */
        } kprobe_multi;
        struct bpf_link_info_uprobe_multi {
            uint64_t path;                  /* 16  6.8 */
            uint64_t offsets;               /* 24  6.8 */
            uint64_t ref_ctr_offsets;       /* 32  6.8 */
            uint64_t cookies;               /* 40  6.8 */
            uint32_t path_size;             /* 48  6.8 */
            uint32_t count;                 /* 52  6.8 */
            uint32_t flags;                 /* 56  6.8 */
            uint32_t pid;                   /* 60  6.8 */
        } uprobe_multi;
        struct bpf_link_info_perf_event {
            uint32_t type;                  /* 16  6.6 */
            uint32_t :32;
            union {
                struct bpf_link_info_uprobe {
                    uint64_t file_name;     /* 24  6.6 */
                    uint32_t name_len;      /* 32  6.6 */
                    uint32_t offset;        /* 36  6.6 */
                    uint64_t cookie;        /* 40  6.9 */
                    uint64_t ref_ctr_offset; /* 48  6.16 */
                } uprobe;
                struct bpf_link_info_kprobe {
                    uint64_t func_name;     /* 24  6.6 */
                    uint32_t name_len;      /* 32  6.6 */
                    uint32_t offset;        /* 36  6.6 */
                    uint64_t addr;          /* 40  6.6 */
                    uint64_t missed;        /* 48  6.7 */
                    uint64_t cookie;        /* 56  6.9 */
                } kprobe;
                struct bpf_link_info_tracepoint {
                    uint64_t tp_name;       /* 24  6.6 */
                    uint32_t name_len;      /* 32  6.6 */
                    uint32_t :32;
                    uint64_t cookie;        /* 40  6.9 */
                } tracepoint;
                struct bpf_link_info_event {
                    uint64_t config;        /* 24  6.6 */
                    uint32_t type;          /* 32  6.6 */
                    uint32_t :32;
                    uint64_t cookie;        /* 40  6.9 */
                } event;
            };
        } perf_event;
        struct bpf_link_info_tcx {
            uint32_t ifindex;               /* 16  6.6 */
            uint32_t attach_type;           /* 20  6.6 */
        } tcx;
        struct bpf_link_info_netkit {
            uint32_t ifindex;               /* 16  6.7 */
            uint32_t attach_type;           /* 20  6.7 */
        } netkit;
        struct bpf_link_info_sockmap {
            uint32_t map_id;                /* 16  6.10 */
            uint32_t attach_type;           /* 20  6.10 */
        } sockmap;
    };
};

/* The door: every call into the kernel passes bpf(). It returns what the
 * system call does inside the kernel: 0 or more, or a negative errno. */
int bpf(int cmd, void *attr, uint32_t size);

/* With BPF_COMMON_ATTRS (1 << 16) added to the command, Linux 7.2 says in words
 * why the call failed. They are here, for the thread that made the call, until
 * its next such call; "" if there are none. There is room for BPF_LOG_SIZE
 * bytes, the NUL included. */
#define BPF_LOG_SIZE 512
char *bpf_log(void);

/* With bpf_hooked set, bpf() asks the Python function bpf_hook() instead. The
 * system call itself is bpf_syscall(), for whoever stands there. A simulated
 * kernel answers through bpf_answer(), which returns its argument: both note
 * the answer, so that it holds if the hook raises afterwards. */
extern int bpf_hooked;
int bpf_syscall(int cmd, void *attr, uint32_t size);
int bpf_answer(int result);

/* As bpf(), for commands that answer a descriptor, which is moved above 2: with
 * stdin closed the kernel gives out 0, which means "none" in many fields. It is
 * left in *made as well: Python code which is interrupted (Ctrl-C) before it
 * sees the return value learns from it what to close. */
int bpf_open(int cmd, void *attr, uint32_t size, int32_t *made);

/* A map's descriptor, and how many calls are under way with it or with another
 * descriptor that is closed together with it. The kernel writes as many bytes as
 * the descriptor's map has in a value. If one thread closed it while another's
 * call has not reached the kernel yet, its number might by then be a map of
 * larger values: so map_retire() comes before close(). It makes further calls
 * MAP_CLOSED and waits for those under way, which takes microseconds: none of
 * them blocks. Calls that pass a hook are not counted, for a hook may do
 * anything, also close the map. */
struct map {
    int32_t  fd;
    int32_t  calls;
    uint32_t value_size;
    uint32_t held;                          /* batches that are HELD */
    uint64_t taken;                         /* elements taken so far */
};

void map_retire(struct map *map);

/* A new descriptor of the map, which nobody else closes; *made as in bpf_open(). */
int map_dup(struct map *map, int32_t *made);

/* As bpf(), counted: for programs that are closed together with the map. */
int map_bpf(struct map *map, int cmd, void *attr, uint32_t size);

/* Push and peek. They fill the attr on the C stack, because filling it from
 * Python costs as much as the call. */
int map_update_elem(struct map *map, void *value, uint64_t flags);
int map_lookup_elem(struct map *map, void *value);

/* Pushes `count` elements, a system call each. Returns how many were pushed, and
 * above bit 32 the positive errno that ended it early, or 0. */
int64_t map_push(struct map *map, void *values, uint32_t count, uint64_t flags);

/* Elements that were taken out of the kernel and not handed over to a caller
 * yet. Whatever is taken is counted here before Python can be interrupted, and
 * stays here until one store, `state = BATCH_FREE`, says that the caller has it
 * (or, one by one, `first = ...`). Nothing that is raised in between can lose
 * an element or hand it out twice.
 *
 * BATCH_FREE:  empty, for the next call that wants one.
 * BATCH_TAKEN: in the hands of one call, of the thread `owner`.
 * BATCH_HELD:  the call that had it ended with an exception: what is in it comes
 *              first in the next call.
 *
 * The elements `first` to `count` - 1 of `data` are those that are left; element
 * 0 was the map's `number`th. Behind them come those of the scratch, if the
 * batch has borrowed it. */
enum { BATCH_FREE, BATCH_TAKEN, BATCH_HELD };

struct batch {
    struct map     *map;
    char           *data;
    struct scratch *scratch;
    uint64_t        owner;
    uint64_t        number;
    uint32_t        first;
    uint32_t        count;
    uint32_t        capacity;
    int32_t         state;
};

/* Makes a FREE batch one that this call has, and empty. 0 if it is not FREE. */
int batch_begin(struct batch *batch);

/* Begins, and takes one element. 0, BATCH_IN_USE, or bpf(2)'s negative errno:
 * then the batch is FREE again. */
int map_lookup_and_delete_elem(struct batch *batch);

/* Takes up to `want` elements, a system call each, behind those that the batch
 * has. 0, or the negative errno that ended it. */
int batch_pop(struct batch *batch, uint32_t want);

/* The end of a call that did not hand over: what is left in these two, which
 * may be the same, is HELD from now on. */
void batch_hold(struct batch *batch, struct batch *other);

/* As batch_hold(), for a caller that does not know whether it got the batch:
 * does nothing to one that is FREE or that another thread has. */
void batch_keep(struct batch *batch);

/* How many elements are left in it, those in the scratch included. */
uint32_t batch_left(struct batch *batch);

/* Moves up to `most` elements of a batch that is HELD, or that this call has,
 * behind those of another that this call has. Returns how many; 0 also if
 * another call has the source. */
uint32_t batch_move(struct batch *to, struct batch *from, uint32_t most);

/* Moves what is in the scratch behind the batch's own elements, and gives the
 * scratch back if there was room for all. */
void batch_absorb(struct batch *batch);

/* Memory that is shared with two BPF programs in the kernel (bulk.py), which
 * move many elements in one call: `words` and behind them room for `capacity`
 * elements. `batch` describes those that were popped; `borrower` is the batch
 * that has the scratch, as long as that has not become FREE. */
struct scratch {
    struct batch  batch;
    struct batch *borrower;
    int32_t       busy;
    uint32_t      attr_size;
    uint32_t     *words;
    void         *pop_attr;
    void         *push_attr;
};

/* The words, by their index: how many elements were popped, how many pushed,
 * how many to move, what the helper answered when it ended early, and a push's
 * flags (64 bits). */
enum { SCRATCH_POPPED, SCRATCH_PUSHED, SCRATCH_LIMIT, SCRATCH_WHY, SCRATCH_FLAGS };

/* Pops up to `want` elements into the scratch, which the batch borrows if it has
 * not yet. Returns the positive errno that ended it early, or 0; BATCH_IN_USE
 * if another call has the scratch, or the negative errno of a run that did not
 * take place. */
int batch_pop_many(struct batch *batch, struct scratch *scratch, uint32_t want);

/* Pushes `count` elements through the scratch. Returns what map_push() does, or
 * BATCH_IN_USE or a negative errno as above. */
int64_t map_push_many(struct scratch *scratch, void *values, uint32_t count, uint64_t flags);

/* The second door. A program for a kprobe, a uprobe, a tracepoint or a counter
 * is attached to a perf event, which another system call opens. This is what
 * perf_event_open(2) was told in Linux 2.6.33; longer structs of later kernels
 * are 0 from there on. The kernel declares `bits` as bit-fields: `disabled` is
 * the first of them, which is the highest bit on big-endian machines.
 *
 * Source: include/uapi/linux/perf_event.h. */
struct perf_event_attr {
    uint32_t type;                          /*  0  2.6.31 */
    uint32_t size;                          /*  4  2.6.31 */
    uint64_t config;                        /*  8  2.6.31 */
    union {
        uint64_t sample_period;             /* 16  2.6.31 */
        uint64_t sample_freq;               /* 16  2.6.31 */
    };
    uint64_t sample_type;                   /* 24  2.6.31 */
    uint64_t read_format;                   /* 32  2.6.31 */
    uint64_t bits;                          /* 40  2.6.31 */
    union {
        uint32_t wakeup_events;             /* 48  2.6.31 */
        uint32_t wakeup_watermark;          /* 48  2.6.31 */
    };
    uint32_t bp_type;                       /* 52  2.6.33 */
    union {
        uint64_t bp_addr;                   /* 56  2.6.33 */
        uint64_t config1;                   /* 56  2.6.39 */
        uint64_t kprobe_func;               /* 56  4.17 */
        uint64_t uprobe_path;               /* 56  4.17 */
    };
    union {
        uint64_t bp_len;                    /* 64  2.6.33 */
        uint64_t config2;                   /* 64  2.6.39 */
        uint64_t kprobe_addr;               /* 64  4.17 */
        uint64_t probe_offset;              /* 64  4.17 */
    };
};

/* Answers as bpf_open() does: a descriptor above 2, which is left in *made as
 * well, or a negative errno. No hook is asked here: door.perf_event_open() has
 * its own, because no call through this door is in a hurry. */
int perf_event_open(struct perf_event_attr *attr, int32_t pid, int32_t cpu, int32_t group_fd, uint64_t flags,
                    int32_t *made);
