/* The bpf(2) ABI, as one text: build_ffi.py gives it to cffi (which tells
 * Python what is here) and to the C compiler (which checks it). It needs no
 * kernel header, so the layout does not depend on the machine that builds it.
 *
 * The comment behind a field is read, too (layout.py). It says at which byte
 * the field stands, which Linux brought it, and what kind of value it has:
 *
 *     uint32_t map_flags;   / * 16  4.6  map_flags * /
 *
 * The byte is a _Static_assert when it is compiled. `map_flags` is one of the
 * kinds in attr_fields.py: a number, an fd, flags or an enumerator of some
 * enum, an address and what is there. "text of buf_len" is text at that
 * address, as long as the field buf_len says. Behind the kind may stand:
 *
 *     , out                the kernel writes it
 *     , in out             it reads it first
 *     , if FIELD NAME ...  it counts only if FIELD has one of these values or
 *                          flags; with no NAME, if FIELD is not 0
 *     ; COMMAND ...        only these commands read it. One more comment below
 *                          is what it is for others.
 *
 * The comment after a struct's brace names the commands that read the struct,
 * or says when it counts. The kernel's text has no tags (bpf_attr_batch) here;
 * cffi can't place what has none.
 *
 * A pointer travels as a uint64_t, and every uint64_t is aligned to 8 bytes on
 * every architecture. The padding that takes is written out (`uint32_t :32`),
 * so that 32-bit compilers, which align to 4, agree.
 *
 * Source: include/uapi/linux/bpf.h. */

union bpf_attr {
    struct {                                /* BPF_MAP_CREATE */
        uint32_t map_type;                  /*   0  3.18 map_type */
        uint32_t key_size;                  /*   4  3.18 number */
        uint32_t value_size;                /*   8  3.18 number */
        uint32_t max_entries;               /*  12  3.18 number */
        uint32_t map_flags;                 /*  16  4.6  map_flags */
        uint32_t inner_map_fd;              /*  20  4.12 fd */
        uint32_t numa_node;                 /*  24  4.14 numa_node, if map_flags BPF_F_NUMA_NODE */
        char     map_name[16];              /*  28  4.15 name */
        uint32_t map_ifindex;               /*  44  4.16 ifindex */
        uint32_t btf_fd;                    /*  48  4.18 fd */
        uint32_t btf_key_type_id;           /*  52  4.18 number */
        uint32_t btf_value_type_id;         /*  56  4.18 number */
        uint32_t btf_vmlinux_value_type_id; /*  60  5.6  number */
        uint64_t map_extra;                 /*  64  5.16 number */
        int32_t  value_type_btf_obj_fd;     /*  72  6.9  fd */
        int32_t  map_token_fd;              /*  76  6.9  fd */
        uint64_t excl_prog_hash;            /*  80  6.18 pointer */
        uint32_t excl_prog_hash_size;       /*  88  6.18 number */
        uint32_t :32;
    };

    struct {                                /* BPF_MAP_LOOKUP_ELEM BPF_MAP_UPDATE_ELEM BPF_MAP_DELETE_ELEM BPF_MAP_GET_NEXT_KEY BPF_MAP_LOOKUP_AND_DELETE_ELEM BPF_MAP_FREEZE */
        uint32_t map_fd;                    /*   0  3.18 fd */
        uint32_t :32;
        uint64_t key;                       /*   8  3.18 pointer; BPF_MAP_*_ELEM BPF_MAP_GET_NEXT_KEY */
        union {
            uint64_t value;                 /*  16  3.18 pointer; BPF_MAP_LOOKUP*_ELEM BPF_MAP_UPDATE_ELEM */
            uint64_t next_key;              /*  16  3.18 pointer; BPF_MAP_GET_NEXT_KEY */
        };
        uint64_t flags;                     /*  24  3.19 update_flags; BPF_MAP_UPDATE_ELEM */
                                            /*      5.1  lookup_flags; BPF_MAP_LOOKUP_ELEM */
                                            /*      5.14 lookup_flags; BPF_MAP_LOOKUP_AND_DELETE_ELEM */
    };

    struct bpf_attr_batch {                 /* BPF_MAP_LOOKUP_BATCH BPF_MAP_LOOKUP_AND_DELETE_BATCH BPF_MAP_UPDATE_BATCH BPF_MAP_DELETE_BATCH */
        uint64_t in_batch;                  /*   0  5.6  pointer; BPF_MAP_LOOKUP*_BATCH */
        uint64_t out_batch;                 /*   8  5.6  pointer; BPF_MAP_LOOKUP*_BATCH */
        uint64_t keys;                      /*  16  5.6  pointer */
        uint64_t values;                    /*  24  5.6  pointer; BPF_MAP_LOOKUP*_BATCH BPF_MAP_UPDATE_BATCH */
        uint32_t count;                     /*  32  5.6  number, in out */
        uint32_t map_fd;                    /*  36  5.6  fd */
        uint64_t elem_flags;                /*  40  5.6  lookup_flags */
        uint64_t flags;                     /*  48  5.6  hex */
    } batch;

    struct {                                /* BPF_PROG_LOAD */
        uint32_t prog_type;                 /*   0  3.18 prog_type */
        uint32_t insn_cnt;                  /*   4  3.18 number */
        uint64_t insns;                     /*   8  3.18 pointer */
        uint64_t license;                   /*  16  3.18 string */
        uint32_t log_level;                 /*  24  3.18 number */
        uint32_t log_size;                  /*  28  3.18 number */
        uint64_t log_buf;                   /*  32  3.18 text of log_size */
        uint32_t kern_version;              /*  40  4.1  version */
        uint32_t prog_flags;                /*  44  4.12 prog_flags */
        char     prog_name[16];             /*  48  4.15 name */
        uint32_t prog_ifindex;              /*  64  4.15 ifindex */
        uint32_t expected_attach_type;      /*  68  4.17 attach_type */
        uint32_t prog_btf_fd;               /*  72  5.0  fd */
        uint32_t func_info_rec_size;        /*  76  5.0  number */
        uint64_t func_info;                 /*  80  5.0  pointer */
        uint32_t func_info_cnt;             /*  88  5.0  number */
        uint32_t line_info_rec_size;        /*  92  5.0  number */
        uint64_t line_info;                 /*  96  5.0  pointer */
        uint32_t line_info_cnt;             /* 104  5.0  number */
        uint32_t attach_btf_id;             /* 108  5.5  number */
        union {
            uint32_t attach_prog_fd;        /* 112  5.5  fd */
            uint32_t attach_btf_obj_fd;     /* 112  5.11 fd */
        };
        uint32_t core_relo_cnt;             /* 116  5.17 number */
        uint64_t fd_array;                  /* 120  5.14 pointer */
        uint64_t core_relos;                /* 128  5.17 pointer */
        uint32_t core_relo_rec_size;        /* 136  5.17 number */
        uint32_t log_true_size;             /* 140  6.4  number, out */
        int32_t  prog_token_fd;             /* 144  6.9  fd */
        uint32_t fd_array_cnt;              /* 148  6.14 number */
        uint64_t signature;                 /* 152  6.18 hex bytes of signature_size */
        uint32_t signature_size;            /* 160  6.18 number */
        int32_t  keyring_id;                /* 164  6.18 signed */
    };

    struct {                                /* BPF_OBJ_PIN BPF_OBJ_GET */
        uint64_t pathname;                  /*   0  4.4  path */
        uint32_t bpf_fd;                    /*   8  4.4  fd */
        uint32_t file_flags;                /*  12  4.15 file_flags */
        int32_t  path_fd;                   /*  16  6.5  fd */
        uint32_t :32;
    };

    struct {                                /* BPF_PROG_ATTACH BPF_PROG_DETACH */
        union {
            uint32_t target_fd;             /*   0  4.10 fd */
            uint32_t target_ifindex;        /*   0  6.6  ifindex, if attach_type BPF_XDP BPF_TCX_* BPF_NETKIT_* */
        };
        uint32_t attach_bpf_fd;             /*   4  4.10 fd */
        uint32_t attach_type;               /*   8  4.10 attach_type */
        uint32_t attach_flags;              /*  12  4.11 attach_flags */
        uint32_t replace_bpf_fd;            /*  16  5.6  fd */
        union {
            uint32_t relative_fd;           /*  20  6.6  fd */
            uint32_t relative_id;           /*  20  6.6  number, if attach_flags BPF_F_ID */
        };
        uint64_t expected_revision;         /*  24  6.6  number */
    };

    struct bpf_attr_test {                  /* BPF_PROG_TEST_RUN */
        uint32_t prog_fd;                   /*   0  4.12 fd */
        uint32_t retval;                    /*   4  4.12 number, out */
        uint32_t data_size_in;              /*   8  4.12 number */
        uint32_t data_size_out;             /*  12  4.12 number, in out */
        uint64_t data_in;                   /*  16  4.12 pointer */
        uint64_t data_out;                  /*  24  4.12 pointer */
        uint32_t repeat;                    /*  32  4.12 number */
        uint32_t duration;                  /*  36  4.12 number, out */
        uint32_t ctx_size_in;               /*  40  5.2  number */
        uint32_t ctx_size_out;              /*  44  5.2  number, in out */
        uint64_t ctx_in;                    /*  48  5.2  pointer */
        uint64_t ctx_out;                   /*  56  5.2  pointer */
        uint32_t flags;                     /*  64  5.10 run_flags */
        uint32_t cpu;                       /*  68  5.10 number */
        uint32_t batch_size;                /*  72  5.18 number */
        uint32_t :32;
    } test;

    struct {                                /* BPF_PROG_GET_NEXT_ID BPF_MAP_GET_NEXT_ID BPF_BTF_GET_NEXT_ID BPF_LINK_GET_NEXT_ID BPF_PROG_GET_FD_BY_ID BPF_MAP_GET_FD_BY_ID BPF_BTF_GET_FD_BY_ID BPF_LINK_GET_FD_BY_ID */
        union {
            uint32_t start_id;              /*   0  4.13 number; BPF_*_GET_NEXT_ID */
            uint32_t prog_id;               /*   0  4.13 number; BPF_PROG_GET_FD_BY_ID */
            uint32_t map_id;                /*   0  4.13 number; BPF_MAP_GET_FD_BY_ID */
            uint32_t btf_id;                /*   0  4.18 number; BPF_BTF_GET_FD_BY_ID */
            uint32_t link_id;               /*   0  5.8  number; BPF_LINK_GET_FD_BY_ID */
        };
        uint32_t next_id;                   /*   4  4.13 number, out; BPF_*_GET_NEXT_ID */
        uint32_t open_flags;                /*   8  4.15 file_flags; BPF_MAP_GET_FD_BY_ID */
                                            /*      6.15 file_flags; BPF_BTF_GET_FD_BY_ID */
        int32_t  fd_by_id_token_fd;         /*  12  6.15 fd; BPF_BTF_GET_FD_BY_ID */
    };

    struct bpf_attr_info {                  /* BPF_OBJ_GET_INFO_BY_FD */
        uint32_t bpf_fd;                    /*   0  4.13 fd */
        uint32_t info_len;                  /*   4  4.13 number, in out */
        uint64_t info;                      /*   8  4.13 pointer */
    } info;

    struct bpf_attr_query {                 /* BPF_PROG_QUERY */
        union {
            uint32_t target_fd;             /*   0  4.15 fd */
            uint32_t target_ifindex;        /*   0  6.6  ifindex, if attach_type BPF_XDP BPF_TCX_* BPF_NETKIT_* */
        };
        uint32_t attach_type;               /*   4  4.15 attach_type */
        uint32_t query_flags;               /*   8  4.15 query_flags */
        uint32_t attach_flags;              /*  12  4.15 attach_flags */
        uint64_t prog_ids;                  /*  16  4.15 numbers of prog_cnt, out */
        union {
            uint32_t prog_cnt;              /*  24  4.15 number, in out */
            uint32_t count;                 /*  24  6.6  number, in out */
        };
        uint32_t :32;
        uint64_t prog_attach_flags;         /*  32  6.0  attach_flags of prog_cnt, out */
        uint64_t link_ids;                  /*  40  6.6  numbers of prog_cnt, out */
        uint64_t link_attach_flags;         /*  48  6.6  attach_flags of prog_cnt, out */
        uint64_t revision;                  /*  56  6.6  hex, out */
    } query;

    struct bpf_attr_raw_tracepoint {        /* BPF_RAW_TRACEPOINT_OPEN */
        uint64_t name;                      /*   0  4.17 string */
        uint32_t prog_fd;                   /*   8  4.17 fd */
        uint32_t :32;
        uint64_t cookie;                    /*  16  6.10 hex */
    } raw_tracepoint;

    struct {                                /* BPF_BTF_LOAD */
        uint64_t btf;                       /*   0  4.18 bytes of btf_size */
        uint64_t btf_log_buf;               /*   8  4.18 pointer */
        uint32_t btf_size;                  /*  16  4.18 number */
        uint32_t btf_log_size;              /*  20  4.18 number */
        uint32_t btf_log_level;             /*  24  4.18 number */
        uint32_t btf_log_true_size;         /*  28  6.4  number, out */
        uint32_t btf_flags;                 /*  32  6.9  map_flags */
        int32_t  btf_token_fd;              /*  36  6.9  fd */
    };

    struct bpf_attr_task_fd_query {         /* BPF_TASK_FD_QUERY */
        uint32_t pid;                       /*   0  4.18 number */
        uint32_t fd;                        /*   4  4.18 fd */
        uint32_t flags;                     /*   8  4.18 number */
        uint32_t buf_len;                   /*  12  4.18 number, in out */
        uint64_t buf;                       /*  16  4.18 text of buf_len, out */
        uint32_t prog_id;                   /*  24  4.18 number, out */
        uint32_t fd_type;                   /*  28  4.18 fd_type, out */
        uint64_t probe_offset;              /*  32  4.18 hex, out */
        uint64_t probe_addr;                /*  40  4.18 hex, out */
    } task_fd_query;

    struct bpf_attr_link_create {           /* BPF_LINK_CREATE */
        union {
            uint32_t prog_fd;               /*   0  5.7  fd */
            uint32_t map_fd;                /*   0  6.4  fd, if attach_type BPF_STRUCT_OPS */
        };
        union {
            uint32_t target_fd;             /*   4  5.7  fd */
            uint32_t target_ifindex;        /*   4  5.9  ifindex, if attach_type BPF_XDP BPF_TCX_* BPF_NETKIT_* */
        };
        uint32_t attach_type;               /*   8  5.7  attach_type */
        uint32_t flags;                     /*  12  5.7  attach_flags */
                                            /*      5.9  xdp_flags, if attach_type BPF_XDP */
        union {
            struct {                        /* if attach_type BPF_TRACE_ITER */
                uint64_t iter_info;         /*  16  5.9  pointer */
                uint32_t iter_info_len;     /*  24  5.9  number */
                uint32_t :32;
            };
            struct bpf_attr_perf_event {    /* if attach_type BPF_PERF_EVENT */
                uint64_t bpf_cookie;        /*  16  5.15 hex */
            } perf_event;
            struct bpf_attr_kprobe_multi {  /* if attach_type BPF_TRACE_KPROBE_* */
                uint32_t flags;             /*  16  5.18 kprobe_multi_flags */
                uint32_t cnt;               /*  20  5.18 number */
                uint64_t syms;              /*  24  5.18 strings of cnt */
                uint64_t addrs;             /*  32  5.18 hexes of cnt */
                uint64_t cookies;           /*  40  5.18 hexes of cnt */
            } kprobe_multi;
            struct bpf_attr_tracing {       /* if attach_type BPF_TRACE_RAW_TP BPF_TRACE_FENTRY BPF_TRACE_FEXIT BPF_TRACE_FSESSION BPF_MODIFY_RETURN BPF_LSM_MAC */
                uint32_t target_btf_id;     /*  16  5.19 number */
                uint32_t :32;
                uint64_t cookie;            /*  24  5.19 hex */
            } tracing;
            struct bpf_attr_netfilter {     /* if attach_type BPF_NETFILTER */
                uint32_t pf;                /*  16  6.4  number */
                uint32_t hooknum;           /*  20  6.4  number */
                int32_t  priority;          /*  24  6.4  signed */
                uint32_t flags;             /*  28  6.4  netfilter_flags */
            } netfilter;
            struct bpf_attr_tcx {           /* if attach_type BPF_TCX_* */
                union {
                    uint32_t relative_fd;   /*  16  6.6  fd */
                    uint32_t relative_id;   /*  16  6.6  number, if flags BPF_F_ID */
                };
                uint32_t :32;
                uint64_t expected_revision; /*  24  6.6  hex */
            } tcx;
            struct bpf_attr_uprobe_multi {  /* if attach_type BPF_TRACE_UPROBE_* */
                uint64_t path;              /*  16  6.6  path */
                uint64_t offsets;           /*  24  6.6  hexes of cnt */
                uint64_t ref_ctr_offsets;   /*  32  6.6  hexes of cnt */
                uint64_t cookies;           /*  40  6.6  hexes of cnt */
                uint32_t cnt;               /*  48  6.6  number */
                uint32_t flags;             /*  52  6.6  uprobe_multi_flags */
                uint32_t pid;               /*  56  6.6  number */
                uint32_t path_fd;           /*  60  7.2  fd */
            } uprobe_multi;
            struct bpf_attr_netkit {        /* if attach_type BPF_NETKIT_* */
                union {
                    uint32_t relative_fd;   /*  16  6.7  fd */
                    uint32_t relative_id;   /*  16  6.7  number, if flags BPF_F_ID */
                };
                uint32_t :32;
                uint64_t expected_revision; /*  24  6.7  hex */
            } netkit;
            struct bpf_attr_cgroup {        /* if attach_type BPF_CGROUP_* BPF_LSM_CGROUP, if flags BPF_F_BEFORE BPF_F_AFTER */
                union {
                    uint32_t relative_fd;   /*  16  6.17 fd */
                    uint32_t relative_id;   /*  16  6.17 number, if flags BPF_F_ID */
                };
                uint32_t :32;
                uint64_t expected_revision; /*  24  6.17 hex */
            } cgroup;
            struct bpf_attr_tracing_multi { /* if attach_type BPF_TRACE_*_MULTI */
                uint64_t ids;               /*  16  7.2  pointer */
                uint64_t cookies;           /*  24  7.2  pointer */
                uint32_t cnt;               /*  32  7.2  number */
                uint32_t :32;
            } tracing_multi;
            /* Of programs of type EXT, whose attach type is 0: that of BPF_CGROUP_INET_INGRESS. */
            uint32_t target_btf_id;         /*  16  5.10 number, if attach_type BPF_CGROUP_INET_INGRESS, if target_btf_id */
        };
    } link_create;

    struct bpf_attr_link_update {           /* BPF_LINK_UPDATE */
        uint32_t link_fd;                   /*   0  5.7  fd */
        union {
            uint32_t new_prog_fd;           /*   4  5.7  fd */
            uint32_t new_map_fd;            /*   4  6.4  fd */
        };
        uint32_t flags;                     /*   8  5.7  attach_flags */
        union {
            uint32_t old_prog_fd;           /*  12  5.7  fd, if flags BPF_F_REPLACE */
            uint32_t old_map_fd;            /*  12  6.4  fd, if flags BPF_F_REPLACE */
        };
    } link_update;

    struct bpf_attr_link_detach {           /* BPF_LINK_DETACH */
        uint32_t link_fd;                   /*   0  5.9  fd */
    } link_detach;

    struct bpf_attr_enable_stats {          /* BPF_ENABLE_STATS */
        uint32_t type;                      /*   0  5.8  stats_type */
    } enable_stats;

    struct bpf_attr_iter_create {           /* BPF_ITER_CREATE */
        uint32_t link_fd;                   /*   0  5.8  fd */
        uint32_t flags;                     /*   4  5.8  hex */
    } iter_create;

    struct bpf_attr_prog_bind_map {         /* BPF_PROG_BIND_MAP */
        uint32_t prog_fd;                   /*   0  5.10 fd */
        uint32_t map_fd;                    /*   4  5.10 fd */
        uint32_t flags;                     /*   8  5.10 hex */
    } prog_bind_map;

    struct bpf_attr_token_create {          /* BPF_TOKEN_CREATE */
        uint32_t flags;                     /*   0  6.9  hex */
        uint32_t bpffs_fd;                  /*   4  6.9  fd */
    } token_create;

    struct bpf_attr_prog_stream_read {      /* BPF_PROG_STREAM_READ_BY_FD */
        uint64_t stream_buf;                /*   0  6.17 bytes of stream_buf_len, out */
        uint32_t stream_buf_len;            /*   8  6.17 number */
        uint32_t stream_id;                 /*  12  6.17 number */
        uint32_t prog_fd;                   /*  16  6.17 fd */
        uint32_t :32;
    } prog_stream_read;

    struct bpf_attr_prog_assoc_struct_ops { /* BPF_PROG_ASSOC_STRUCT_OPS */
        uint32_t map_fd;                    /*   0  7.0  fd */
        uint32_t prog_fd;                   /*   4  7.0  fd */
        uint32_t flags;                     /*   8  7.0  hex */
    } prog_assoc_struct_ops;
};

struct bpf_map_info {
    uint32_t type;                          /*   0  4.13 map_type */
    uint32_t id;                            /*   4  4.13 number */
    uint32_t key_size;                      /*   8  4.13 number */
    uint32_t value_size;                    /*  12  4.13 number */
    uint32_t max_entries;                   /*  16  4.13 number */
    uint32_t map_flags;                     /*  20  4.13 map_flags */
    char     name[16];                      /*  24  4.15 name */
    uint32_t ifindex;                       /*  40  4.16 ifindex */
    uint32_t btf_vmlinux_value_type_id;     /*  44  5.6  number */
    uint64_t netns_dev;                     /*  48  4.16 device */
    uint64_t netns_ino;                     /*  56  4.16 number */
    uint32_t btf_id;                        /*  64  4.18 number */
    uint32_t btf_key_type_id;               /*  68  4.18 number */
    uint32_t btf_value_type_id;             /*  72  4.18 number */
    uint32_t btf_vmlinux_id;                /*  76  6.9  number */
    uint64_t map_extra;                     /*  80  5.16 hex */
    uint64_t hash;                          /*  88  6.18 hex bytes of hash_size, out */
    uint32_t hash_size;                     /*  96  6.18 number */
    uint32_t :32;
};

struct bpf_prog_info {
    uint32_t type;                          /*   0  4.13 prog_type */
    uint32_t id;                            /*   4  4.13 number */
    uint8_t  tag[8];                        /*   8  4.13 byte array */
    uint32_t jited_prog_len;                /*  16  4.13 number, in out */
    uint32_t xlated_prog_len;               /*  20  4.13 number, in out */
    uint64_t jited_prog_insns;              /*  24  4.13 hex bytes of jited_prog_len, out */
    uint64_t xlated_prog_insns;             /*  32  4.13 instructions of xlated_prog_len, out */
    uint64_t load_time;                     /*  40  4.15 boottime */
    uint32_t created_by_uid;                /*  48  4.15 number */
    uint32_t nr_map_ids;                    /*  52  4.15 number, in out */
    uint64_t map_ids;                       /*  56  4.15 numbers of nr_map_ids, out */
    char     name[16];                      /*  64  4.15 name */
    uint32_t ifindex;                       /*  80  4.16 ifindex */
    uint32_t gpl_compatible:1;              /*  84  4.18 number */
    uint64_t netns_dev;                     /*  88  4.16 device */
    uint64_t netns_ino;                     /*  96  4.16 number */
    uint32_t nr_jited_ksyms;                /* 104  4.18 number, in out */
    uint32_t nr_jited_func_lens;            /* 108  4.18 number, in out */
    uint64_t jited_ksyms;                   /* 112  4.18 pointer, in out */
    uint64_t jited_func_lens;               /* 120  4.18 pointer, in out */
    uint32_t btf_id;                        /* 128  5.0  number */
    uint32_t func_info_rec_size;            /* 132  5.0  number, in out */
    uint64_t func_info;                     /* 136  5.0  pointer */
    uint32_t nr_func_info;                  /* 144  5.0  number, in out */
    uint32_t nr_line_info;                  /* 148  5.0  number, in out */
    uint64_t line_info;                     /* 152  5.0  pointer */
    uint64_t jited_line_info;               /* 160  5.0  pointer */
    uint32_t nr_jited_line_info;            /* 168  5.0  number, in out */
    uint32_t line_info_rec_size;            /* 172  5.0  number, in out */
    uint32_t jited_line_info_rec_size;      /* 176  5.0  number, in out */
    uint32_t nr_prog_tags;                  /* 180  5.0  number, in out */
    uint64_t prog_tags;                     /* 184  5.0  pointer */
    uint64_t run_time_ns;                   /* 192  5.1  number */
    uint64_t run_cnt;                       /* 200  5.1  number */
    uint64_t recursion_misses;              /* 208  5.12 number */
    uint32_t verified_insns;                /* 216  5.16 number */
    uint32_t attach_btf_obj_id;             /* 220  6.0  number */
    uint32_t attach_btf_id;                 /* 224  6.0  number */
    uint32_t :32;
};

struct bpf_btf_info {
    uint64_t btf;                           /*   0  4.18 bytes of btf_size, out */
    uint32_t btf_size;                      /*   8  4.18 number, in out */
    uint32_t id;                            /*  12  4.18 number */
    uint64_t name;                          /*  16  5.11 text of name_len, out */
    uint32_t name_len;                      /*  24  5.11 number, in out */
    uint32_t kernel_btf;                    /*  28  5.11 number */
};

/* What BPF_OBJ_GET_INFO_BY_FD says of a link. The union has a struct for each
 * type of link; its names are addresses of buffers, which the kernel fills. */
struct bpf_link_info {
    uint32_t type;                          /*   0  5.8  link_type */
    uint32_t id;                            /*   4  5.8  number */
    uint32_t prog_id;                       /*   8  5.8  number */
    uint32_t :32;
    union {
        struct bpf_link_info_raw_tracepoint { /* if type BPF_LINK_TYPE_RAW_TRACEPOINT */
            uint64_t tp_name;               /*  16  5.8  text of tp_name_len, out */
            uint32_t tp_name_len;           /*  24  5.8  number, in out */
            uint32_t :32;
            uint64_t cookie;                /*  32  6.17 hex */
        } raw_tracepoint;
        struct bpf_link_info_tracing {      /* if type BPF_LINK_TYPE_TRACING */
            uint32_t attach_type;           /*  16  5.8  attach_type */
            uint32_t target_obj_id;         /*  20  5.13 number */
            uint32_t target_btf_id;         /*  24  5.13 number */
            uint32_t :32;
            uint64_t cookie;                /*  32  6.17 hex */
        } tracing;
        struct bpf_link_info_cgroup {       /* if type BPF_LINK_TYPE_CGROUP */
            uint64_t cgroup_id;             /*  16  5.8  number */
            uint32_t attach_type;           /*  24  5.8  attach_type */
            uint32_t :32;
        } cgroup;
        struct bpf_link_info_iter {         /* if type BPF_LINK_TYPE_ITER */
            uint64_t target_name;           /*  16  5.9  text of target_name_len, out */
            uint32_t target_name_len;       /*  24  5.9  number, in out */
            union {
                struct bpf_link_info_iter_map {
                    uint32_t map_id;        /*  28  5.9  number */
                } map;
            };
            union {
                struct bpf_link_info_iter_cgroup {
                    uint64_t cgroup_id;     /*  32  6.1  number */
                    uint32_t order;         /*  40  6.1  iter_order */
                    uint32_t :32;
                } cgroup;
                struct bpf_link_info_iter_task {
                    uint32_t tid;           /*  32  6.1  number */
                    uint32_t pid;           /*  36  6.1  number */
                } task;
            };
        } iter;
        struct bpf_link_info_netns {        /* if type BPF_LINK_TYPE_NETNS */
            uint32_t netns_ino;             /*  16  5.8  number */
            uint32_t attach_type;           /*  20  5.8  attach_type */
        } netns;
        struct bpf_link_info_xdp {          /* if type BPF_LINK_TYPE_XDP */
            uint32_t ifindex;               /*  16  5.9  ifindex */
        } xdp;
        struct bpf_link_info_struct_ops {   /* if type BPF_LINK_TYPE_STRUCT_OPS */
            uint32_t map_id;                /*  16  6.4  number */
        } struct_ops;
        struct bpf_link_info_netfilter {    /* if type BPF_LINK_TYPE_NETFILTER */
            uint32_t pf;                    /*  16  6.4  number */
            uint32_t hooknum;               /*  20  6.4  number */
            int32_t  priority;              /*  24  6.4  signed */
            uint32_t flags;                 /*  28  6.4  netfilter_flags */
        } netfilter;
        struct bpf_link_info_kprobe_multi { /* if type BPF_LINK_TYPE_KPROBE_MULTI */
            uint64_t addrs;                 /*  16  6.6  hexes of count, out */
            uint32_t count;                 /*  24  6.6  number, in out */
            uint32_t flags;                 /*  28  6.6  kprobe_multi_flags */
            uint64_t missed;                /*  32  6.7  number */
            uint64_t cookies;               /*  40  6.9  hexes of count, out */
        } kprobe_multi;
        struct bpf_link_info_uprobe_multi { /* if type BPF_LINK_TYPE_UPROBE_MULTI */
            uint64_t path;                  /*  16  6.8  text of path_size, out */
            uint64_t offsets;               /*  24  6.8  hexes of count, out */
            uint64_t ref_ctr_offsets;       /*  32  6.8  hexes of count, out */
            uint64_t cookies;               /*  40  6.8  hexes of count, out */
            uint32_t path_size;             /*  48  6.8  number, in out */
            uint32_t count;                 /*  52  6.8  number, in out */
            uint32_t flags;                 /*  56  6.8  uprobe_multi_flags */
            uint32_t pid;                   /*  60  6.8  number */
        } uprobe_multi;
        struct bpf_link_info_perf_event {   /* if type BPF_LINK_TYPE_PERF_EVENT */
            uint32_t type;                  /*  16  6.6  perf_event_type */
            uint32_t :32;
            union {
                struct bpf_link_info_uprobe { /* if type BPF_PERF_EVENT_U* */
                    uint64_t file_name;     /*  24  6.6  text of name_len, out */
                    uint32_t name_len;      /*  32  6.6  number, in out */
                    uint32_t offset;        /*  36  6.6  number */
                    uint64_t cookie;        /*  40  6.9  hex */
                    uint64_t ref_ctr_offset; /*  48  6.16 hex */
                } uprobe;
                struct bpf_link_info_kprobe { /* if type BPF_PERF_EVENT_K* */
                    uint64_t func_name;     /*  24  6.6  text of name_len, out */
                    uint32_t name_len;      /*  32  6.6  number, in out */
                    uint32_t offset;        /*  36  6.6  number */
                    uint64_t addr;          /*  40  6.6  hex */
                    uint64_t missed;        /*  48  6.7  number */
                    uint64_t cookie;        /*  56  6.9  hex */
                } kprobe;
                struct bpf_link_info_tracepoint { /* if type BPF_PERF_EVENT_TRACEPOINT */
                    uint64_t tp_name;       /*  24  6.6  text of name_len, out */
                    uint32_t name_len;      /*  32  6.6  number, in out */
                    uint32_t :32;
                    uint64_t cookie;        /*  40  6.9  hex */
                } tracepoint;
                struct bpf_link_info_event { /* if type BPF_PERF_EVENT_EVENT */
                    uint64_t config;        /*  24  6.6  hex */
                    uint32_t type;          /*  32  6.6  number */
                    uint32_t :32;
                    uint64_t cookie;        /*  40  6.9  hex */
                } event;
            };
        } perf_event;
        struct bpf_link_info_tcx {          /* if type BPF_LINK_TYPE_TCX */
            uint32_t ifindex;               /*  16  6.6  ifindex */
            uint32_t attach_type;           /*  20  6.6  attach_type */
        } tcx;
        struct bpf_link_info_netkit {       /* if type BPF_LINK_TYPE_NETKIT */
            uint32_t ifindex;               /*  16  6.7  ifindex */
            uint32_t attach_type;           /*  20  6.7  attach_type */
        } netkit;
        struct bpf_link_info_sockmap {      /* if type BPF_LINK_TYPE_SOCKMAP */
            uint32_t map_id;                /*  16  6.10 number */
            uint32_t attach_type;           /*  20  6.10 attach_type */
        } sockmap;
    };
};

struct bpf_token_info {
    uint64_t allowed_cmds;                  /*   0  6.18 hex */
    uint64_t allowed_maps;                  /*   8  6.18 hex */
    uint64_t allowed_progs;                 /*  16  6.18 hex */
    uint64_t allowed_attachs;               /*  24  6.18 hex */
};

/* Where iter_info of BPF_LINK_CREATE points to: over which objects an iterator
 * goes. The kernel reads iter_info_len bytes of it. */
union bpf_iter_link_info {
    struct bpf_iter_link_info_map {
        uint32_t map_fd;                    /*   0  5.9  fd */
    } map;
    struct bpf_iter_link_info_cgroup {
        uint32_t order;                     /*   0  6.1  iter_order */
        uint32_t cgroup_fd;                 /*   4  6.1  fd */
        uint64_t cgroup_id;                 /*   8  6.1  number */
    } cgroup;
    struct bpf_iter_link_info_task {
        uint32_t tid;                       /*   0  6.1  number */
        uint32_t pid;                       /*   4  6.1  number */
        uint32_t pid_fd;                    /*   8  6.1  fd */
    } task;
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

/* After set_bpf_hooked(1), bpf() asks the Python function bpf_hook() instead. The
 * system call itself is bpf_syscall(), for whoever stands there. A simulated
 * kernel answers through bpf_answer(), which returns its argument: both note
 * the answer, so that it holds if the hook raises afterwards. */
void set_bpf_hooked(int on);
int bpf_syscall(int cmd, void *attr, uint32_t size);
int bpf_answer(int result);

/* As bpf(), for commands that answer a descriptor, which is moved above 2: with
 * stdin closed the kernel gives out 0, which means "none" in many fields. It is
 * left in *made as well: Python code which is interrupted (Ctrl-C) before it
 * sees the return value learns from it what to close. */
int bpf_open(int cmd, void *attr, uint32_t size, int32_t *made);

/* A map's descriptor, and the calls with it or with another descriptor that is
 * closed together with it. The lowest 16 bits of `calls` say how many are under
 * way, the others how many there have been: that numbers what they take. Both
 * are in one word, so that one locked addition changes both.
 *
 * The kernel writes as many bytes as the descriptor's map has in a value. If one
 * thread closed it while another's call has not reached the kernel yet, its
 * number might by then be a map of larger values: so map_retire() comes before
 * close(). It makes further calls MAP_CLOSED and waits for those under way, which
 * takes microseconds: none of them blocks. Calls that pass a hook do not count as
 * under way, for a hook may do anything, also close the map. */
struct map {
    int32_t  fd;
    uint32_t value_size;
    uint64_t calls;
    uint32_t held;                          /* batches that are HELD */
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
 * (or a call of batch_hold(), that it has all but the rest). Nothing that is
 * raised in between can lose an element or hand it out twice.
 *
 * BATCH_FREE:  empty, for the next call that wants one.
 * BATCH_TAKEN: in the hands of one call, of the thread `owner`.
 * BATCH_HELD:  the call that had it ended with an exception: what is in it comes
 *              first in the next call.
 *
 * The elements `first` to `count` - 1 of `data` are those that are left; element
 * 0 was taken by the call `number`. Behind them come those of the scratch, if the
 * batch has borrowed it. */
enum { BATCH_FREE, BATCH_TAKEN, BATCH_HELD };

struct batch {
    uint8_t         state;                  /* the first byte: Python stores it as memory[0], which is fast */
    struct map     *map;
    char           *data;
    struct scratch *scratch;
    uint64_t        owner;
    uint64_t        number;
    uint32_t        first;
    uint32_t        count;
    uint32_t        capacity;
    uint32_t        rest[4];                /* for batch_hold() */
};

/* Makes a FREE batch one that this call has, and empty. 0 if it is not FREE.
 * (In the Python door a batch is TAKEN for as long as the caller keeps the answer
 * of this function or of map_pop().) */
int batch_begin(struct batch *batch);

/* Begins, and takes one element. 0, or bpf(2)'s negative errno: then the batch
 * is FREE again. BATCH_IN_USE also if the map has batches that are HELD: their
 * elements come first. If a hook raised, what was taken is HELD. */
int map_lookup_and_delete_elem(struct batch *batch);

/* The same for up to `want` elements, a system call each. Returns how many, or
 * the negative errno if there was none. */
int map_pop(struct batch *batch, uint32_t want);

/* Takes up to `want` elements, a system call each, behind those that the batch
 * has. 0, or the negative errno that ended it. */
int batch_pop(struct batch *batch, uint32_t want);

/* The end of a call that hands over its elements one after the other, in up to
 * four parts, and came so far that rest[0], rest[1] ... of these were left. They
 * are HELD from now on.
 *
 * This must not need memory. So they are fields that the caller sets: CPython
 * would make a tuple of several arguments, and for a large sum an integer. */
void batch_hold(struct batch *batch);

/* The end of a call that handed over nothing, and does not know whether it got
 * the batch: does nothing to one that is FREE or that another thread has. */
void batch_keep(struct batch *batch);

/* batch_keep() for two batches, which may be the same. */
void batch_keep_both(struct batch *batch, struct batch *other);

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

/* Maps with keys. As above: counted, and tried again when they answer EBUSY.
 * What the kernel answered is left in *answer as well, for Python code that is
 * interrupted before it sees the return value, or whose hook is: it learns from
 * it whether an element was taken out of the map. It stays as it was if the
 * kernel was not asked. */

/* One element: any command whose attr is that of BPF_MAP_LOOKUP_ELEM. `value`
 * is the next key for BPF_MAP_GET_NEXT_KEY. */
int map_element(struct map *map, int cmd, void *key, void *value, uint64_t flags, int32_t *answer);

/* Many elements: a command that reads `batch`. The descriptor is filled in. */
int map_batch(struct map *map, int cmd, struct bpf_attr_batch *batch, int32_t *answer);

/* A record in a ring buffer's memory: where its `length` bytes begin, in bytes
 * from the beginning of the data, and the position behind it. */
struct ring_record {
    uint64_t after;
    uint32_t offset;
    uint32_t length;
};

/* Finds up to `most` records that the producers have completed, from `position`
 * on, and leaves out those that they discarded. `producer` is the page with
 * their position, `data` the `size` bytes behind it, which are mapped twice.
 * Returns how many, with the position behind all that was looked at in *end; or
 * -EINVAL if the positions contradict each other: somebody else has written the
 * consumer's. What a producer wrote before it completed a record is seen. */
int ring_scan(void *producer, void *data, uint32_t size, uint64_t position, struct ring_record *records, int most,
              uint64_t *end);

/* Reads made before it are over before a write behind it is seen by others. */
void ring_fence(void);

/* The second door. A program for a kprobe, a uprobe, a tracepoint or a counter
 * is attached to a perf event, which another system call opens. This is what
 * perf_event_open(2) was told in Linux 2.6.33; longer structs of later kernels
 * are 0 from there on. The kernel declares `bits` as bit-fields: `disabled` is
 * the first of them, which is the highest bit on big-endian machines.
 *
 * Source: include/uapi/linux/perf_event.h. */
struct perf_event_attr {
    uint32_t type;                          /*   0  2.6.31 number */
    uint32_t size;                          /*   4  2.6.31 number */
    uint64_t config;                        /*   8  2.6.31 hex */
    union {
        uint64_t sample_period;             /*  16  2.6.31 number */
        uint64_t sample_freq;               /*  16  2.6.31 number */
    };
    uint64_t sample_type;                   /*  24  2.6.31 hex */
    uint64_t read_format;                   /*  32  2.6.31 hex */
    uint64_t bits;                          /*  40  2.6.31 hex */
    union {
        uint32_t wakeup_events;             /*  48  2.6.31 number */
        uint32_t wakeup_watermark;          /*  48  2.6.31 number */
    };
    uint32_t bp_type;                       /*  52  2.6.33 number */
    union {
        uint64_t bp_addr;                   /*  56  2.6.33 hex */
        uint64_t config1;                   /*  56  2.6.39 hex */
        uint64_t kprobe_func;               /*  56  4.17 string */
        uint64_t uprobe_path;               /*  56  4.17 path */
    };
    union {
        uint64_t bp_len;                    /*  64  2.6.33 number */
        uint64_t config2;                   /*  64  2.6.39 hex */
        uint64_t kprobe_addr;               /*  64  4.17 hex */
        uint64_t probe_offset;              /*  64  4.17 hex */
    };
};

/* Answers as bpf_open() does: a descriptor above 2, which is left in *made as
 * well, or a negative errno. No hook is asked here: door.perf_event_open() has
 * its own, because no call through this door is in a hurry. */
int perf_event_open(struct perf_event_attr *attr, int32_t pid, int32_t cpu, int32_t group_fd, uint64_t flags,
                    int32_t *made);
